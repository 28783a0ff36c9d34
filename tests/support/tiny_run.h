// A tiny mixture of experts on a fixed stream of tokens, for tests of whole training steps.
#pragma once

#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "comm/parallel_groups.h"
#include "comm/thread_group.h"
#include "engine/core/thread_pool.h"
#include "engine/train/trainer.h"

namespace test {

inline engine::Config tiny_config() {
  engine::Config config;
  config.seed = 7;
  config.model.hidden_size = 24;
  config.model.num_hidden_layers = 2;
  config.model.num_attention_heads = 4;
  config.model.num_key_value_heads = 2;
  config.model.head_dim = 6;
  config.model.vocab_size = 61;
  config.model.max_position_embeddings = 12;
  config.model.num_experts = 8;
  config.model.num_experts_per_tok = 2;
  config.model.moe_intermediate_size = 20;
  config.model.initializer_range = 0.15;
  config.model.router.aux_loss_coef = 0.01;
  config.model.router.z_loss_coef = 0.001;
  config.train.seq_len = 12;
  config.train.granules = 8;
  config.train.batch_tokens = {16 * 12};
  config.optim.lr = 3e-3;
  config.optim.schedule = "constant";
  config.optim.grad_clip = 0.5;
  return config;
}

// Tokens of sample n: pieces of a pattern that can be learned.
inline void tiny_sample(const engine::Config& config, int64_t sample, int32_t* tokens) {
  const int64_t V = config.model.vocabulary();
  int64_t token = (sample * 7 + 3) % V;
  for (int64_t s = 0; s <= config.train.seq_len; ++s) {
    tokens[s] = static_cast<int32_t>(token);
    token = (token * 5 + (s % 3) + 1) % V;
  }
}

struct TinyResult {
  std::vector<double> losses, aux_losses, norms;
  std::string digest;
  std::vector<float> weights;  // of the dense block, on rank 0
  int64_t recomputed = 0;
};

inline TinyResult train_tiny(const engine::Config& config, comm::ParallelGroups& groups, int64_t steps,
                             const moe::ExpertPlacement& placement = {}) {
  engine::train::Trainer trainer(config, groups, placement);
  trainer.begin_digest();
  TinyResult result;
  for (int64_t step = 0; step < steps; ++step) {
    auto outcome = trainer.train_step(step * config.sequences_per_step(),
                                      [&](int64_t sample, int32_t* tokens) { tiny_sample(config, sample, tokens); });
    result.losses.push_back(outcome.loss);
    result.aux_losses.push_back(outcome.aux_loss);
    result.norms.push_back(outcome.grad_norm);
    result.recomputed += outcome.recomputed;
  }
  result.digest = trainer.digest();
  const float* weights = trainer.store().dense().weights.f32();
  result.weights.assign(weights, weights + trainer.store().dense().elements);
  return result;
}

// On `ranks` ranks as threads with `ep_size`.
inline TinyResult train_tiny(const engine::Config& config, int64_t steps, int ranks = 1, int ep_size = 1,
                             int threads_per_rank = 1, const moe::ExpertPlacement& placement = {}) {
  TinyResult result;
  comm::run_thread_ranks(ranks, threads_per_rank, [&](std::unique_ptr<comm::Group> world) {
    comm::ParallelGroups groups = comm::make_parallel_groups(std::move(world), ep_size);
    TinyResult mine = train_tiny(config, groups, steps, placement);
    if (groups.world->rank() == 0) result = std::move(mine);
  });
  return result;
}

}  // namespace test
