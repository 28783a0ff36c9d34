// Training on several ranks of an emulated device: the digest, and so every bit, of one rank.
#include "comm/nccl_world.h"
#include "tests/support/device.h"
#include "tests/support/tiny_run.h"

namespace {

using engine::Device;

// With every access checked a step takes seconds.
int64_t steps() {
  return emulation::checks_accesses() ? 1 : 3;
}

std::string digest_of(const engine::Config& config, std::unique_ptr<comm::Group> world) {
  comm::ParallelGroups groups = comm::make_parallel_groups(std::move(world), 1);
  engine::train::Trainer trainer(config, groups, {}, Device::cuda);
  trainer.begin_digest();
  for (int64_t step = 0; step < steps(); ++step) {
    trainer.train_step(step * config.sequences_per_step(),
                       [&](int64_t sample, int32_t* tokens) { test::tiny_sample(config, sample, tokens); });
  }
  return trainer.digest();
}

std::string digest_on(const engine::Config& config, int ranks, emulation::Streams order) {
  emulation::set({.streams = order, .seed = test::fresh_seed()});
  std::string digest;
  comm::run_thread_ranks(ranks, 1, [&](std::unique_ptr<comm::Group> host) {
    const bool leads = host->rank() == 0;
    const std::string own = digest_of(config, comm::make_nccl_group(std::move(host)));
    if (leads) digest = own;
  });
  return digest;
}

}  // namespace

TEST_CASE("nccl: training on 2 and 4 ranks gives the digest of one, whatever the order of streams") {
  engine::Config config = test::tiny_config();
  emulation::set({});
  const std::string one = digest_of(config, comm::make_self_group());
  CHECK(digest_on(config, 1, emulation::Streams::late) == one);
  CHECK(digest_on(config, 2, emulation::Streams::late) == one);
  CHECK(digest_on(config, 4, emulation::Streams::shuffled) == one);
  config.model.tie_word_embeddings = true, config.model.num_experts = 0;  // a dense model
  config.model.intermediate_size = 40;
  const std::string dense = digest_of(config, comm::make_self_group());
  CHECK(dense != one);
  CHECK(digest_on(config, 2, emulation::Streams::late) == dense);
  CHECK(emulation::take_faults().empty());
}
