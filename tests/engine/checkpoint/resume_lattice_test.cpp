// A run of 40 steps, saved after any of them on one layout and gone on with on another, ends with the same bits.
#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "engine/checkpoint/weights_hash.h"
#include "engine/train/trainer_checkpoint.h"
#include "tests/support/compare.h"
#include "tests/support/temporary_directory.h"
#include "tests/support/tiny_run.h"

namespace {

using namespace engine;

constexpr int64_t kSteps = 40;

struct Layout {
  int ranks, ep_size;
};
constexpr Layout kLayouts[] = {{1, 1}, {2, 1}, {3, 3}, {4, 2}, {5, 5}, {8, 4}};
constexpr int64_t kNumLayouts = 6;

Config lattice_config() {
  Config config = test::tiny_config();
  config.model.hidden_size = 8;
  config.model.num_attention_heads = 2;
  config.model.num_key_value_heads = 1;
  config.model.head_dim = 4;
  config.model.vocab_size = 19;
  config.model.moe_intermediate_size = 6;
  config.model.router.bias_update_rate = 0.01;
  config.model.router.aux_loss_scope = "global";
  config.train.seq_len = 6;
  config.train.batch_tokens = {16 * 6};
  config.checkpoint.keep_last = kSteps;
  return config;
}

// The end of a run: its digest, all weights and all moments.
struct End {
  std::string digest;
  Hash128 weights, moments;
  bool operator==(const End&) const = default;
};

End end_of(train::Trainer& trainer) {
  Hash128 moments;
  for (const train::OptimizerSlice& s : trainer.optimizer().slices()) {
    moments += checkpoint::hash_blocks("exp_avg." + s.parameter->spec.name, s.exp_avg, s.begin, s.count);
    moments += checkpoint::hash_blocks("exp_avg_sq." + s.parameter->spec.name, s.exp_avg_sq, s.begin, s.count);
  }
  int64_t halves[] = {static_cast<int64_t>(moments.low), static_cast<int64_t>(moments.high)};
  trainer.groups().world->all_reduce_sum(Tensor(halves, DType::i64, {2})).wait();
  return {trainer.digest(), checkpoint::hash_weights(trainer.store(), *trainer.groups().ep),
          Hash128{static_cast<uint64_t>(halves[0]), static_cast<uint64_t>(halves[1])}};
}

void train_to(train::Trainer& trainer, int64_t step) {
  const Config& config = trainer.config();
  while (trainer.step() < step) {
    trainer.train_step(trainer.step() * config.sequences_per_step(),
                       [&](int64_t sample, int32_t* tokens) { test::tiny_sample(config, sample, tokens); });
  }
}

End run_on(const Layout& layout, const std::function<void(train::Trainer&)>& body) {
  End end;
  comm::run_thread_ranks(layout.ranks, 1, [&](std::unique_ptr<comm::Group> world) {
    comm::ParallelGroups groups = comm::make_parallel_groups(std::move(world), layout.ep_size);
    train::Trainer trainer(lattice_config(), groups);
    trainer.begin_digest();
    body(trainer);
    train_to(trainer, kSteps);
    const End mine = end_of(trainer);
    if (groups.world->rank() == 0) end = mine;
  });
  return end;
}

}  // namespace

TEST_CASE("resume lattice: saved after any step on any layout, a run goes on with the same bits on any other") {
  const bool all = std::getenv("RESUME_LATTICE") != nullptr;                       // every step and pair, for minutes
  if (std::filesystem::is_directory("/dev/shm")) setenv("TMPDIR", "/dev/shm", 1);  // durable is not what is tested
  const End expected = run_on(kLayouts[0], [](train::Trainer&) {});
  int64_t resumed = 0;
  for (int64_t from = 0; from < kNumLayouts; ++from) {
    test::TemporaryDirectory directory;
    const auto is_drawn = [&](int64_t step, int64_t to) {
      return all || (step % kNumLayouts == from && step / kNumLayouts % kNumLayouts == to);
    };
    const End saved = run_on(kLayouts[from], [&](train::Trainer& trainer) {
      for (int64_t step = 1; step < kSteps; ++step) {
        train_to(trainer, step);
        if (all || step % kNumLayouts == from) {
          checkpoint::save_checkpoint(directory.path(), train::save_request(trainer), trainer.groups());
        }
      }
    });
    CHECK_MESSAGE(saved == expected, "saving changes a run on ", kLayouts[from].ranks, " ranks");
    for (int64_t step = 1; step < kSteps; ++step) {
      for (int64_t to = 0; to < kNumLayouts; ++to) {
        if (!is_drawn(step, to)) continue;
        const End end = run_on(kLayouts[to], [&](train::Trainer& trainer) {
          train::restore_trainer(trainer, directory.path() + "/" + checkpoint::checkpoint_name(step));
          REQUIRE(trainer.step() == step);
        });
        ++resumed;
        CHECK_MESSAGE(end == expected, "saved after step ", step, " on ", kLayouts[from].ranks, " ranks, resumed on ",
                      kLayouts[to].ranks);
      }
    }
  }
  CHECK(resumed == (all ? (kSteps - 1) * kNumLayouts * kNumLayouts : kSteps - 1));
  MESSAGE(resumed, " resumes of a run of ", kSteps, " steps");
}
