// The same bits on any layout: every number of ranks and ep_size that the granules allow.
#include "engine/train/trainer.h"
#include "tests/support/compare.h"
#include "tests/support/tiny_run.h"

namespace {

using namespace engine;
using test::tiny_config;
using test::TinyResult;
using test::train_tiny;

void check_all_layouts(const Config& config, int64_t steps) {
  const TinyResult expected = train_tiny(config, steps);
  for (int ranks : {2, 3, 4, 5, 6, 8}) {
    for (int ep_size = 1; ep_size <= ranks; ++ep_size) {
      if (ranks % ep_size != 0) continue;
      TinyResult run = train_tiny(config, steps, ranks, ep_size);
      for (size_t step = 0; step < expected.losses.size(); ++step) {
        if (run.losses[step] == expected.losses[step] && run.norms[step] == expected.norms[step]) continue;
        FAIL_CHECK(ranks << " ranks, ep_size " << ep_size << ": step " << step + 1 << " has loss " << run.losses[step]
                         << ", norm " << run.norms[step] << " but one rank " << expected.losses[step] << ", "
                         << expected.norms[step]);
        break;
      }
      CHECK_MESSAGE(run.digest == expected.digest, ranks, " ranks, ep_size ", ep_size);
      CHECK(run.weights == expected.weights);
    }
  }
}

}  // namespace

TEST_CASE("layout: dropless routing with balance losses and clipping") {
  check_all_layouts(tiny_config(), 5);
}

TEST_CASE("layout: capacity, shared expert with gate, query/key norms, tied embeddings") {
  Config config = tiny_config();
  config.model.router.capacity_factor = 0.8;
  config.model.n_shared_experts = 1;
  config.model.shared_expert_gate = true;
  config.model.qk_norm = "head";
  config.model.tie_word_embeddings = true;
  check_all_layouts(config, 4);
}

TEST_CASE("layout: sigmoid scores, groups, expert bias, global balance") {
  Config config = tiny_config();
  config.model.scoring_func = "sigmoid";
  config.model.n_group = 4;
  config.model.topk_group = 2;
  config.model.routed_scaling_factor = 2.5;
  config.model.router.bias_update_rate = 0.01;
  config.model.router.aux_loss_scope = "global";
  config.model.router.jitter = 0.05;
  config.model.first_k_dense_replace = 1;
  check_all_layouts(config, 4);
}
