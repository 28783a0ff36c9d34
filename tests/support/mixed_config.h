// The tiny model with everything a step may have: a dense layer, shared experts, norms of queries and keys.
#pragma once

#include "tests/support/tiny_run.h"

namespace test {

inline engine::Config mixed_config() {
  engine::Config config = tiny_config();
  config.model.n_shared_experts = 1;
  config.model.first_k_dense_replace = 1;
  config.model.num_hidden_layers = 3;
  config.model.intermediate_size = 40;
  config.model.qk_norm = "head";
  return config;
}

}  // namespace test
