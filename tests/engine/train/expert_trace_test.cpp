// A trace holds what was recorded, on any layout; what is simulated on it is what another run does.
#include "engine/train/expert_trace.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <mutex>

#include "engine/train/load_recorder.h"
#include "engine/train/load_simulation.h"
#include "tests/support/compare.h"
#include "tests/support/temporary_directory.h"
#include "tests/support/tiny_run.h"

namespace {

using namespace engine;
using namespace engine::train;

constexpr int64_t kSteps = 4;
const std::vector<std::string> kSources{"a", "b"};
size_t source_of(int64_t sample) {
  return static_cast<size_t>(sample % 5 % 2);
}

// A load far from even: the router starts with large weights.
Config skewed_config() {
  Config config = test::tiny_config();
  config.model.router.aux_loss_coef = 0;
  config.model.initializer_range = 0.6;
  return config;
}

struct Run {
  LoadWindow window;
  ExpertTrace trace;
  std::string digest;
};

Run run(const Config& config, int ranks, int ep_size, const moe::ExpertPlacement& placement = {}) {
  test::TemporaryDirectory place;
  const std::string path = place.path() + "/expert_trace.bin";
  Run result;
  comm::run_thread_ranks(ranks, 1, [&](std::unique_ptr<comm::Group> world) {
    const bool leads = world->rank() == 0;
    comm::ParallelGroups groups = comm::make_parallel_groups(std::move(world), ep_size);
    Trainer trainer(config, groups, placement);
    trainer.begin_digest();
    LoadRecorder recorder(trainer, kSources, source_of);
    TraceRecorder trace(trainer, kSources, source_of, {1, 2, 3, 4}, leads ? path : "");
    recorder.trace_with(&trace);
    for (int64_t step = 0; step < kSteps; ++step) {
      const int64_t first = step * config.sequences_per_step();
      recorder.begin_step(first), trace.begin_step(first);
      const StepResult r = trainer.train_step(
          first, [&](int64_t sample, int32_t* tokens) { test::tiny_sample(config, sample, tokens); });
      recorder.end_step(r);
      REQUIRE(trace.end_step(r));
    }
    const LoadWindow window = recorder.finish();
    if (leads) result.window = window, result.digest = trainer.digest();
  });
  result.trace = read_trace(path);
  return result;
}

// The recount: plain loops over the trace.
void check_recount(const Run& r) {
  const TraceHeader& header = r.trace.header;
  REQUIRE(r.trace.steps.size() == kSteps);
  for (size_t l = 0; l < header.layers.size(); ++l) {
    std::vector<int64_t> counts(8);
    std::vector<std::vector<int64_t>> by_source(2, std::vector<int64_t>(8));
    for (const TraceStep& step : r.trace.steps) {
      for (int64_t t = 0; t < header.tokens(); ++t) {
        const size_t source = source_of((step.step - 1) * header.sequences + t / header.seq_len);
        CHECK(step.sources[static_cast<size_t>(t / header.seq_len)] == source);
        for (int64_t k = 0; k < header.slots; ++k) {
          const size_t at = static_cast<size_t>((static_cast<int64_t>(l) * header.tokens() + t) * header.slots + k);
          ++counts[step.choices_LTK[at]];
          ++by_source[source][step.choices_LTK[at]];
        }
      }
    }
    CHECK(counts == r.window.layers[l].tokens_per_expert);
    CHECK(by_source == r.window.layers[l].tokens_by_source);
    CHECK(header.layers[l] == r.window.layers[l].layer);
  }
}

void check_rows(const Simulated& simulated, const LoadWindow& recorded) {
  for (size_t l = 0; l < recorded.layers.size(); ++l) {
    REQUIRE(simulated.rows_LR[l].size() == recorded.ranks.size());
    for (size_t rank = 0; rank < recorded.ranks.size(); ++rank) {
      CHECK(simulated.rows_LR[l][rank] == recorded.ranks[rank].rows[l]);
    }
  }
}

}  // namespace

TEST_CASE("trace: counts recounted, and rows of every rank predicted exactly") {
  Config capacity = skewed_config();
  capacity.model.router.capacity_factor = 1.1;
  for (const Config& config : {skewed_config(), capacity}) {
    const Run one = run(config, 1, 1);
    check_recount(one);
    const TraceCounts counts(one.trace);
    const double factor = config.model.router.capacity_factor.value_or(0);
    for (const auto& [ranks, ep_size] : {std::pair{2, 1}, {2, 2}, {3, 3}, {4, 2}, {8, 4}, {8, 8}}) {
      INFO(ranks << " ranks, ep_size " << ep_size);
      const Run other = run(config, ranks, ep_size);
      check_recount(other);
      CHECK(other.digest == one.digest);
      for (size_t s = 0; s < kSteps; ++s) CHECK(other.trace.steps[s].choices_LTK == one.trace.steps[s].choices_LTK);
      Layout layout{.ranks = ranks, .ep_size = ep_size, .capacity_factor = factor};
      const Simulated simulated = simulate(counts, layout);
      check_rows(simulated, other.window);
      double overload = 0;
      for (const LayerWindow& layer : other.window.layers) overload += layer.mean_overload / 2;
      CHECK(simulated.step_overload == doctest::Approx(overload));
      if (ep_size == 1) continue;
      // the same with the experts placed by load: rows as predicted, and no other bit
      layout.placement = plan_placement(counts, ep_size);
      const Run placed = run(config, ranks, ep_size, layout.placement);
      check_rows(simulate(counts, layout), placed.window);
      CHECK(placed.digest == one.digest);
      if (factor > 0 || ranks > ep_size) continue;  // otherwise the plan's lists alone say where the rows are
      const auto& rank_of_expert_LE = layout.placement.rank_of_expert_LE;
      CHECK(rank_of_expert_LE[0] != rank_of_expert_LE[1]);
      for (size_t l = 0; l < 2; ++l) {
        std::vector<int64_t> rows(static_cast<size_t>(ranks));
        for (size_t e = 0; e < 8; ++e) rows[static_cast<size_t>(rank_of_expert_LE[l][e])] += counts.total(l)[e];
        for (size_t rank = 0; rank < rows.size(); ++rank) CHECK(placed.window.ranks[rank].rows[l] == rows[rank]);
      }
    }
    const LayerWindow& layer = one.window.layers[0];
    const double choices = static_cast<double>(layer.tokens * 2 * 2);
    const double dropped = static_cast<double>(layer.dropped + one.window.layers[1].dropped);
    CHECK(simulate(counts, {.capacity_factor = factor}).drop_rate == doctest::Approx(dropped / choices));
  }
}

TEST_CASE("trace: a placement by load comes within 5 % of the best possible") {
  const TraceCounts counts(run(skewed_config(), 1, 1).trace);
  for (int64_t ranks : {2, 4}) {
    const moe::ExpertPlacement plan = plan_placement(counts, ranks);
    for (size_t l = 0; l < 2; ++l) {
      const std::vector<int64_t> load = counts.total(l);
      int64_t best = INT64_MAX;  // over all ways to give each rank 8 / ranks experts
      for (int64_t code = 0; code < (ranks == 2 ? 256 : 65536); ++code) {
        std::vector<int64_t> rows(static_cast<size_t>(ranks)), held(static_cast<size_t>(ranks));
        for (size_t e = 0; e < 8; ++e) {
          const size_t rank = static_cast<size_t>(ranks == 2 ? code >> e & 1 : code >> (2 * e) & 3);
          rows[rank] += load[e], ++held[rank];
        }
        if (std::count(held.begin(), held.end(), 8 / ranks) == ranks) {
          best = std::min(best, *std::max_element(rows.begin(), rows.end()));
        }
      }
      const int64_t before = moe::fullest_rank(load, moe::consecutive_experts(8, ranks), ranks);
      const int64_t after = moe::fullest_rank(load, plan.rank_of_expert_LE[l], ranks);
      INFO("layer " << l << " on " << ranks << " ranks: " << before << " to " << after << ", best " << best);
      CHECK(static_cast<double>(after) <= 1.05 * static_cast<double>(best));
      CHECK(after <= before);
    }
  }
}

TEST_CASE("trace: files that are damaged, unfinished, resumed or something else") {
  test::TemporaryDirectory place;
  const std::string path = place.path() + "/t";
  const TraceHeader header{
      .experts = 4, .slots = 1, .seq_len = 2, .sequences = 2, .layers = {1}, .sources = {"<x> \"y\""}};
  begin_trace(path, header, 0);
  for (int64_t step : {3, 5, 9}) {
    REQUIRE(
        append_trace(path, {.step = step, .seconds = 0.5, .sources = {0, 0}, .choices_LTK = {3, 2, 1, kNotRouted}}));
  }
  ExpertTrace trace = read_trace(path);
  REQUIRE(trace.steps.size() == 3);
  CHECK(trace.header.sources == header.sources);
  CHECK(trace.steps[2].step == 9);
  CHECK(trace.steps[2].choices_LTK == std::vector<uint16_t>{3, 2, 1, kNotRouted});
  begin_trace(path, header, 5);  // goes on after step 5
  CHECK(read_trace(path).steps.size() == 2);
  const auto size = std::filesystem::file_size(path);
  std::ofstream(path, std::ios::app) << "half a record";
  CHECK(read_trace(path).steps.size() == 2);
  std::filesystem::resize_file(path, size);
  std::string bytes = place.read("t");
  bytes[bytes.size() - 12] ^= 1;
  place.write("t", bytes);
  CHECK_THROWS_WITH_AS(read_trace(path), doctest::Contains("damaged in record 2"), Error);
  TraceHeader other = header;
  other.ranks = 2;
  begin_trace(path, other, 5);
  CHECK_THROWS_WITH_AS(read_trace(path), doctest::Contains("holds no step"), Error);
  place.write("t", "something else");
  CHECK_THROWS_WITH_AS(read_trace(path), doctest::Contains("no expert trace"), Error);
}
