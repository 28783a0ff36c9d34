// How large a model is and what a token costs, from its config alone.
#pragma once

#include <cstdint>

#include "engine/config/config.h"

namespace engine {

struct ParameterCount {
  int64_t total = 0;
  int64_t active = 0;  // used by one token: of routed experts the chosen ones
};
ParameterCount count_parameters(const ModelConfig& model);

// FLOPs of the forward pass per token of a sequence of S: projections, 2 H C (S + 1) for causal attention, router,
// K * 3 * 2 D F for the chosen experts, shared experts, dense layers, and 2 D V for the head. A training step is
// three times that.
double forward_flops_per_token(const ModelConfig& model, int64_t seq_len);

}  // namespace engine
