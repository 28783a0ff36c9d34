#include "engine/checkpoint/checkpoint.h"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>

#include "comm/thread_group.h"
#include "engine/checkpoint/safetensors.h"
#include "engine/checkpoint/weights_hash.h"
#include "engine/config/canonical.h"
#include "engine/core/stop_request.h"
#include "engine/train/loaded_model.h"
#include "tests/support/compare.h"
#include "tests/support/temporary_directory.h"
#include "tests/support/tiny_run.h"

namespace {

using namespace engine;
using checkpoint::MomentSlice;
using checkpoint::Reader;

std::vector<MomentSlice> slices_of(train::Trainer& trainer) {
  std::vector<MomentSlice> slices;
  for (const train::OptimizerSlice& s : trainer.optimizer().slices()) {
    slices.push_back({s.parameter->spec.name, s.begin, s.count, s.exp_avg, s.exp_avg_sq});
  }
  return slices;
}

void train_steps(train::Trainer& trainer, int64_t steps) {
  const Config& config = trainer.config();
  for (int64_t i = 0; i < steps; ++i) {
    trainer.train_step(trainer.step() * config.sequences_per_step(),
                       [&](int64_t sample, int32_t* tokens) { test::tiny_sample(config, sample, tokens); });
  }
}

std::string save(train::Trainer& trainer, const std::string& directory, int64_t keep_last = 10) {
  checkpoint::SaveRequest request{.store = &trainer.store(), .moments = slices_of(trainer), .keep_last = keep_last};
  request.state.step = trainer.step();
  request.state.digest = trainer.digest();
  request.state.config = canonical_json(trainer.config());
  request.state.arrays["gradient_bounds"] = trainer.grid().bounds();
  train::put_balance_state(trainer.model(), request.state);
  return checkpoint::save_checkpoint(directory, request, trainer.groups());
}

void load(train::Trainer& trainer, const std::string& path) {
  const Reader reader(path);
  reader.load_weights(trainer.store());
  auto slices = slices_of(trainer);
  reader.load_moments(slices);
  train::take_balance_state(reader.state(), trainer.model());
  trainer.grid().set_bounds(reader.state().arrays.at("gradient_bounds"));
  trainer.resume(reader.state().step, reader.state().digest);
}

Config config_with_state() {
  Config config = test::tiny_config();
  config.model.router.bias_update_rate = 0.01;
  config.model.router.aux_loss_scope = "global";
  return config;
}

// Trains, with a save and a resume on another layout in between if `directory` is given; returns the digest.
std::string run_on(const Config& config, int ranks, int ep_size, const std::function<void(train::Trainer&)>& body) {
  std::string digest;
  comm::run_thread_ranks(ranks, 1, [&](std::unique_ptr<comm::Group> world) {
    comm::ParallelGroups groups = comm::make_parallel_groups(std::move(world), ep_size);
    train::Trainer trainer(config, groups);
    trainer.begin_digest();
    body(trainer);
    if (groups.world->rank() == 0) digest = trainer.digest();
  });
  return digest;
}

struct SavedRun {
  SavedRun() {
    run_on(config_with_state(), 2, 2, [&](train::Trainer& trainer) {
      train_steps(trainer, 2);
      std::string saved = save(trainer, directory.path());
      if (trainer.groups().world->rank() == 0) path = saved;
    });
  }
  test::TemporaryDirectory directory;
  std::string path;
};

}  // namespace

TEST_CASE("checkpoint: a damaged one is passed over for the one before it, and nothing is overwritten") {
  test::TemporaryDirectory directory;
  run_on(test::tiny_config(), 1, 1, [&](train::Trainer& trainer) {
    for (int i = 0; i < 3; ++i) {
      train_steps(trainer, 1);
      save(trainer, directory.path(), 2);
    }
    CHECK(checkpoint::list_checkpoints(directory.path()) == std::vector<std::string>{"step-00000003", "step-00000002"});
    CHECK_THROWS_WITH_AS(save(trainer, directory.path()), doctest::Contains("exists already"), Error);
  });
  std::filesystem::remove(directory.path() + "/step-00000003/COMMIT");
  std::vector<std::string> problems;
  CHECK(checkpoint::newest_whole_checkpoint(directory.path(), problems).ends_with("step-00000002"));
  CHECK(problems.size() == 1);
}

TEST_CASE("checkpoint: a wish to stop ends a verification on every rank") {
  const SavedRun run;
  const pid_t child = fork();  // there is no way back from such a wish
  if (child == 0) {
    catch_stop_signals();
    raise(SIGTERM);
    std::atomic<int> stopped = 0;
    comm::run_thread_ranks(2, 1, [&](std::unique_ptr<comm::Group> world) {
      try {
        checkpoint::verify_checkpoint(run.path, *world);
      } catch (const Error& error) {
        stopped += error.code() == ExitCode::stopped;
      }
    });
    _exit(stopped);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 2);
  CHECK(checkpoint::verify_checkpoint(run.path).empty());
}

TEST_CASE("checkpoint: a model that does not fit names every weight, and weights that are not finite are not saved") {
  const SavedRun run;
  Config other = config_with_state();
  other.model.moe_intermediate_size = 24;
  run_on(other, 1, 1, [&](train::Trainer& trainer) {
    CHECK_THROWS_WITH_AS(load(trainer, run.path),
                         doctest::Contains("model.layers.1.mlp.experts.7.up_proj.weight has another shape"), Error);
  });
  other = config_with_state();
  other.model.qk_norm = "head";
  run_on(other, 1, 1, [&](train::Trainer& trainer) {
    CHECK_THROWS_WITH_AS(load(trainer, run.path), doctest::Contains("self_attn.q_norm.weight is missing"), Error);
  });
  run_on(test::tiny_config(), 1, 1, [&](train::Trainer& trainer) {
    trainer.store().find("model.norm.weight")->weight.f32()[3] = std::numeric_limits<float>::quiet_NaN();
    CHECK_THROWS_WITH_AS(save(trainer, run.directory.path() + "/nan"),
                         doctest::Contains("model.norm.weight is not finite at element 3"), Error);
    CHECK(checkpoint::list_checkpoints(run.directory.path() + "/nan").empty());
  });
}

TEST_CASE("checkpoint: the hash of weights does not depend on who holds the experts") {
  std::vector<Hash128> hashes;
  for (int ep_size : {1, 2, 3}) {
    comm::run_thread_ranks(ep_size, 1, [&](std::unique_ptr<comm::Group> world) {
      comm::ParallelGroups groups = comm::make_parallel_groups(std::move(world), ep_size);
      train::Trainer trainer(test::tiny_config(), groups);
      const Hash128 hash = checkpoint::hash_weights(trainer.store(), *groups.ep);
      if (groups.world->rank() == 0) hashes.push_back(hash);
    });
  }
  CHECK(hashes[0] == hashes[1]);
  CHECK(hashes[0] == hashes[2]);
}

TEST_CASE("safetensors: half precision is widened") {
  test::TemporaryDirectory directory;
  const auto file = [&](const std::string& header, const std::string& data) {
    const uint64_t length = header.size();
    directory.write("t.safetensors", std::string(reinterpret_cast<const char*>(&length), 8) + header + data);
    return checkpoint::SafetensorsFile(directory.path(), "t.safetensors");
  };
  const uint16_t halves[] = {0x3c00, 0xc000, 0x0001, 0x7bff};  // 1, -2, 2^-24, 65504
  const auto half = file(R"({"h":{"dtype":"F16","shape":[4],"data_offsets":[0,8]}})",
                         std::string(reinterpret_cast<const char*>(halves), 8));
  float values[4];
  half.read(half.entries()[0], 0, 4, values);
  CHECK(values[0] == 1);
  CHECK(values[1] == -2);
  CHECK(values[2] == 0x1p-24f);
  CHECK(values[3] == 65504);
}
