// What a plan says beforehand is what a trainer takes.
#include "engine/train/memory_plan.h"

#include <map>
#include <string>

#include "engine/core/buffer.h"
#include "engine/train/trainer.h"
#include "tests/support/compare.h"
#include "tests/support/memory_use.h"
#include "tests/support/tiny_run.h"

using engine::Config;
using engine::train::Layout;
using engine::train::MemoryUse;

namespace {

MemoryUse taken(const Config& config, const Layout& layout) {
  MemoryUse use;
  comm::run_thread_ranks(layout.ranks, layout.threads, [&](std::unique_ptr<comm::Group> world) {
    comm::ParallelGroups groups = comm::make_parallel_groups(std::move(world), layout.ep_size);
    engine::train::Trainer trainer(config, groups);
    trainer.begin_digest();
    for (int step = 0; step < 2; ++step) {
      trainer.train_step(0, [&](int64_t sample, int32_t* tokens) { test::tiny_sample(config, sample, tokens); });
    }
    if (groups.world->rank() == 0) use = engine::train::memory_in_use(trainer);
    groups.world->barrier();
  });
  return use;
}

void check_same(const Config& config, const Layout& layout) {
  test::check_same_memory(engine::train::plan_memory(config, layout), taken(config, layout));
}

}  // namespace

TEST_CASE("memory_plan: every category is what a trainer takes, on any layout") {
  std::map<std::string, Config> variants{{"as it is", test::tiny_config()}};
  variants["tied embedding, one granule a step"] = test::tiny_config();
  variants["tied embedding, one granule a step"].model.tie_word_embeddings = true;
  Config& shared = variants["shared expert with gate, a dense layer, norms of queries"] = test::tiny_config();
  shared.model.n_shared_experts = 1;
  shared.model.shared_expert_gate = true;
  shared.model.first_k_dense_replace = 1;
  shared.model.qk_norm = "head";
  shared.model.attention_bias = true;
  Config& dense = variants["dense"] = test::tiny_config();
  dense.model.num_experts = 0;
  dense.model.intermediate_size = 40;
  for (auto& [name, config] : variants) {
    INFO(name);
    config.model.router.force = "uniform";  // rows beyond an even load would make room for themselves
    check_same(config, {.ranks = 1});
    if (config.model.num_experts == 0) continue;
    check_same(config, {.ranks = 2, .ep_size = 2});
    check_same(config, {.ranks = 4, .ep_size = 2});
  }
  Config one = variants["as it is"];
  one.train.granules = 1;
  check_same(one, {.ranks = 1});
}

TEST_CASE("memory_plan: kernels take about the scratch that is planned") {
  Config config = test::tiny_config();
  config.model.hidden_size = 256;
  config.model.head_dim = 64;
  config.model.moe_intermediate_size = 128;
  config.model.max_position_embeddings = config.train.seq_len = 128;
  config.train.batch_tokens = {8 * 128};
  const Layout layout{.ranks = 1, .threads = 1};
  const MemoryUse planned = engine::train::plan_memory(config, layout), use = taken(config, layout);
  CHECK(static_cast<double>(use.scratch) == doctest::Approx(planned.scratch).epsilon(0.2));
}

TEST_CASE("memory_plan: a model far larger than this machine is planned") {
  Config config = test::tiny_config();
  config.model.hidden_size = 4096;
  config.model.head_dim = 128;
  config.model.num_attention_heads = 32;
  config.model.moe_intermediate_size = 14336;
  config.model.num_hidden_layers = 32;
  config.model.vocab_size = 32000;
  const MemoryUse planned = engine::train::plan_memory(config, {.ranks = 8, .ep_size = 8});
  CHECK(planned.weights > int64_t{20} << 30);
  CHECK(planned.sums == 2 * planned.weights);
}

TEST_CASE("memory_plan: GPUs are planned on a machine without one") {
  const Config config = test::tiny_config();
  const MemoryUse here = engine::train::plan_memory(config, {.ranks = 4, .ep_size = 2});
  const MemoryUse full = engine::train::plan_memory(config, {.ranks = 4, .ep_size = 2, .device = engine::Device::cuda});
  const MemoryUse half = engine::train::plan_memory(
      config, {.ranks = 4, .ep_size = 2, .device = engine::Device::cuda, .element_bytes = 2});
  CHECK(full.packed == 0);
  CHECK(half.packed == half.weights / 2);
  CHECK(full.weights == here.weights);
  CHECK(full.expert_rows == here.expert_rows);
  CHECK(half.expert_rows < here.expert_rows);
  CHECK(half.activations < full.activations);
}

TEST_CASE("buffer: planned memory has an address and a size") {
  char* address = nullptr;
  {
    const engine::Buffer::Planning no_memory;
    const engine::Buffer buffer(int64_t{1} << 37);  // less than what the thread sanitizer leaves to programs
    address = buffer.data();
    CHECK(buffer.bytes() == int64_t{1} << 37);
  }
  CHECK(address != nullptr);
  const engine::Buffer buffer(4096);
  CHECK(buffer.data()[0] == 0);  // real again
}
