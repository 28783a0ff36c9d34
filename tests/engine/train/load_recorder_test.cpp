// What is recorded is the same on any layout, adds up, and survives the file.
#include "engine/train/load_recorder.h"

#include <fstream>

#include "tests/support/compare.h"
#include "tests/support/temporary_directory.h"
#include "tests/support/tiny_run.h"

namespace {

using namespace engine;
using namespace engine::train;

const std::vector<std::string> kSources{"a", "b \"<script>\"", "c"};
size_t source_of(int64_t sample) {
  return static_cast<size_t>(sample % 7 % 3);
}

std::vector<LoadWindow> record(const Config& config, int ranks, int ep_size, int64_t steps, int64_t every) {
  std::vector<LoadWindow> windows;
  comm::run_thread_ranks(ranks, 1, [&](std::unique_ptr<comm::Group> world) {
    comm::ParallelGroups groups = comm::make_parallel_groups(std::move(world), ep_size);
    Trainer trainer(config, groups);
    trainer.begin_digest();
    LoadRecorder recorder(trainer, kSources, source_of);
    for (int64_t step = 0; step < steps; ++step) {
      const int64_t first = step * config.sequences_per_step();
      recorder.begin_step(first);
      recorder.end_step(trainer.train_step(
          first, [&](int64_t sample, int32_t* tokens) { test::tiny_sample(config, sample, tokens); }));
      if ((step + 1) % every != 0) continue;
      const LoadWindow window = recorder.finish();
      if (groups.world->rank() == 0) windows.push_back(window);
    }
  });
  return windows;
}

// Without what belongs to the layout.
std::string recorded(LoadWindow window) {
  window.seconds = 0, window.ep_size = 1, window.ranks.clear();
  for (LayerWindow& layer : window.layers) layer.mean_overload = layer.largest_overload = 1;
  return to_json(window);
}

int64_t sum(const std::vector<int64_t>& counts) {
  int64_t total = 0;
  for (int64_t n : counts) total += n;
  return total;
}

Config config_with_everything() {
  Config config = test::tiny_config();
  config.model.scoring_func = "sigmoid";
  config.model.router.bias_update_rate = 0.01;
  config.model.router.capacity_factor = 0.9;
  config.model.router.aux_loss_scope = "global";
  return config;
}

}  // namespace

TEST_CASE("recorder: the same on every layout, and sums hold") {
  for (const Config& config : {test::tiny_config(), config_with_everything()}) {
    const std::vector<LoadWindow> expected = record(config, 1, 1, 4, 2);
    REQUIRE(expected.size() == 2);
    for (const LoadWindow& window : expected) {
      CHECK(window.steps() == 2);
      for (const LayerWindow& layer : window.layers) {
        CHECK(layer.tokens == 2 * config.batch_tokens());
        CHECK(sum(layer.tokens_per_expert) == layer.tokens * 2);
        double probability = 0;
        for (double p : layer.probability) probability += p;
        CHECK(probability == doctest::Approx(1));
        CHECK(layer.router_entropy > 0);
        CHECK(layer.first_weight > 0);
        CHECK((layer.dropped > 0) == config.model.router.capacity_factor.has_value());
        CHECK(layer.expert_bias.size() == (config.model.router.bias_update_rate > 0 ? 8 : 0));
        std::vector<int64_t> by_source(8);
        for (size_t s = 0; s < 3; ++s) {
          for (size_t e = 0; e < 8; ++e) by_source[e] += layer.tokens_by_source[s][e];
        }
        CHECK(by_source == layer.tokens_per_expert);
        // of samples 0 to 31 and 32 to 63; 7 of 3, 2, 2
        const int64_t first = (window.first_step - 1) * 16;
        for (size_t s = 0; s < 3; ++s) {
          int64_t samples = 0;
          for (int64_t n = first; n < first + 32; ++n) samples += source_of(n) == s ? 1 : 0;
          CHECK(sum(layer.tokens_by_source[s]) == samples * 12 * 2);
        }
      }
    }
    for (const auto& [ranks, ep_size] : {std::pair{2, 1}, {2, 2}, {4, 2}, {5, 5}, {8, 4}}) {
      INFO(ranks << " ranks, ep_size " << ep_size);
      const std::vector<LoadWindow> windows = record(config, ranks, ep_size, 4, 2);
      REQUIRE(windows.size() == 2);
      for (size_t i = 0; i < 2; ++i) {
        CHECK(recorded(windows[i]) == recorded(expected[i]));
        REQUIRE(windows[i].ranks.size() == static_cast<size_t>(ranks));
        for (size_t l = 0; l < 2; ++l) {
          int64_t rows = 0, largest = 0;
          for (const RankWindow& rank : windows[i].ranks) {
            rows += rank.rows[l];
            largest = std::max(largest, rank.rows[l]);
            CHECK((rank.bytes_sent > 0) == (ep_size > 1));
          }
          const LayerWindow& layer = windows[i].layers[l];
          CHECK(rows == sum(layer.tokens_per_expert) - layer.dropped);
          CHECK(layer.largest_overload >= layer.mean_overload);
          CHECK(layer.largest_overload >= static_cast<double>(largest * ranks) / static_cast<double>(rows) - 1e-12);
        }
      }
    }
  }
}

TEST_CASE("recorder: after samples were left out the sources are those of the samples that took their places") {
  const Config config = test::tiny_config();
  test::TemporaryDirectory place;
  comm::ParallelGroups groups = comm::make_parallel_groups(comm::make_self_group(), 1);
  Trainer trainer(config, groups);
  trainer.begin_digest();
  trainer.order().exclude({{2, 5}, {7, 9}});
  LoadRecorder recorder(trainer, kSources, source_of);
  TraceRecorder trace(trainer, kSources, source_of, {1}, place.path() + "/trace");
  recorder.trace_with(&trace);
  recorder.begin_step(0), trace.begin_step(0);
  const StepResult result =
      trainer.train_step(0, [&](int64_t sample, int32_t* tokens) { test::tiny_sample(config, sample, tokens); });
  recorder.end_step(result);
  REQUIRE(trace.end_step(result));
  std::vector<uint16_t> sources;  // of the 16 samples of the step: 0, 1, 5, 6, 9 to 20
  std::vector<int64_t> samples(3);
  for (int64_t n = 0; n < 21; ++n) {
    if ((n >= 2 && n < 5) || (n >= 7 && n < 9)) continue;
    sources.push_back(static_cast<uint16_t>(source_of(n)));
    ++samples[source_of(n)];
  }
  CHECK(read_trace(place.path() + "/trace").steps[0].sources == sources);
  const LoadWindow window = recorder.finish();
  for (size_t s = 0; s < 3; ++s) CHECK(sum(window.layers[0].tokens_by_source[s]) == samples[s] * 12 * 2);
}

TEST_CASE("recorder: windows longer than one exchange, merged windows, and the file") {
  Config config = test::tiny_config();
  config.train.batch_tokens = {8 * 12};
  const std::vector<LoadWindow> one = record(config, 2, 2, 66, 66), two = record(config, 2, 2, 66, 33);
  REQUIRE(one.size() == 1);
  LoadWindow merged = merge(two[0], two[1]);
  CHECK(merged.steps() == 66);
  for (size_t l = 0; l < 2; ++l) {
    const LayerWindow &a = merged.layers[l], &b = one[0].layers[l];
    CHECK(a.tokens_per_expert == b.tokens_per_expert);
    CHECK(a.tokens_by_source == b.tokens_by_source);
    CHECK(a.router_entropy == doctest::Approx(b.router_entropy));
    CHECK(a.aux_loss == doctest::Approx(b.aux_loss));
    CHECK(a.probability[3] == doctest::Approx(b.probability[3]));
    CHECK(a.mean_overload == doctest::Approx(b.mean_overload));
    CHECK(a.largest_overload == b.largest_overload);
  }
  for (size_t r = 0; r < 2; ++r) CHECK(merged.ranks[r].rows == one[0].ranks[r].rows);

  test::TemporaryDirectory place;
  RunDirectory directory(place.path() + "/run");
  const std::string path = directory.path() + "/experts.jsonl";
  append_load(directory, to_json(two[0]));
  append_load(directory, to_json(two[1]));
  const std::vector<int64_t> eight{3, 1, 4, 1, 5, 9, 2, 6};
  append_load(directory, to_json(EvaluationWindow{66, {{"held_out", {std::vector<int64_t>(8), eight}}}}));
  LoadHistory history = read_load_history(path);
  REQUIRE(history.windows.size() == 2);
  CHECK(to_json(history.windows[1]) == to_json(two[1]));  // every number to the last digit
  CHECK(history.windows[1].sources[1] == kSources[1]);
  REQUIRE(history.evaluations.size() == 1);
  CHECK(history.evaluations[0].sets[0].tokens_per_expert[1] == eight);
  // beyond the limit pairs become one
  append_load(directory, to_json(two[1]), 10);
  history = read_load_history(path);
  REQUIRE(history.windows.size() == 2);
  CHECK(to_json(history.windows[0]) == to_json(merged));
  CHECK(history.evaluations.size() == 1);
  // the line that a killed run did not finish is passed over, a broken one in the middle is named
  std::ofstream(path, std::ios::app) << "{\"step\":9";
  CHECK(read_load_history(path).windows.size() == 2);
  std::ofstream(path, std::ios::app) << "\n" << to_json(two[0]) << "\n";
  CHECK_THROWS_WITH_AS(read_load_history(path), doctest::Contains("line 4"), Error);
  std::ofstream(path) << to_json(two[0]) << "\n" << to_json(EvaluationWindow{66, {{"x", {eight}}}}) << "\n";
  CHECK_THROWS_WITH_AS(read_load_history(path), doctest::Contains("the evaluation of x is of another model"), Error);
}
