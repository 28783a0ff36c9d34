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

std::string digest_of(const engine::Config& config, std::unique_ptr<comm::Group> world, int64_t ep_size = 1) {
  comm::ParallelGroups groups = comm::make_parallel_groups(std::move(world), ep_size);
  engine::train::Trainer trainer(config, groups, {}, Device::cuda);
  trainer.begin_digest();
  for (int64_t step = 0; step < steps(); ++step) {
    trainer.train_step(step * config.sequences_per_step(),
                       [&](int64_t sample, int32_t* tokens) { test::tiny_sample(config, sample, tokens); });
  }
  return trainer.digest();
}

std::string digest_on(const engine::Config& config, int ranks, emulation::Streams order, int64_t ep_size = 1) {
  emulation::set({.streams = order, .seed = test::fresh_seed()});
  std::string digest;
  comm::run_thread_ranks(ranks, 1, [&](std::unique_ptr<comm::Group> host) {
    const bool leads = host->rank() == 0;
    const std::string own = digest_of(config, comm::make_nccl_group(std::move(host)), ep_size);
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

TEST_CASE("nccl: experts over 2, 3 and 4 ranks give the digest of one, whatever the order of streams") {
  using emulation::Streams;
  engine::Config config = test::tiny_config();
  emulation::set({});
  const std::string one = digest_of(config, comm::make_self_group());
  CHECK(digest_on(config, 2, Streams::late, 2) == one);
  CHECK(digest_on(config, 4, Streams::shuffled, 2) == one);
  config.model.router.capacity_factor = 1.0, config.model.router.aux_loss_scope = "sequence";
  config.model.router.jitter = 0.1, config.model.n_shared_experts = 1, config.parallel.overlap_chunks = 2;
  emulation::set({});
  const std::string special = digest_of(config, comm::make_self_group());
  CHECK(special != one);
  CHECK(digest_on(config, 3, Streams::shuffled, 3) == special);  // uneven experts and granules
  CHECK(digest_on(config, 4, Streams::late, 4) == special);
  CHECK(emulation::take_faults().empty());
}
