// What one step of generation reads: the weights of the experts that its tokens chose, and keys and values.
#pragma once

#include "engine/config/config.h"

namespace engine::train {

struct GenerationCost {
  double experts = 0;                // touched in each MoE layer
  double weight_bytes = 0;           // of a step
  double cache_bytes_per_token = 0;  // keys and values of one position
  double cache_bytes = 0;            // read in a step
  double bytes() const { return weight_bytes + cache_bytes; }
};

// `batch` sequences with so many tokens each; `experts` touched in a layer, or, where negative, what independent even
// choices touch on average.
GenerationCost generation_cost(const ModelConfig& model, int64_t batch, double context, double experts = -1);

}  // namespace engine::train
