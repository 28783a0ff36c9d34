// Whoever wants to see which experts tokens took, as it happens.
#pragma once

#include <cstddef>

#include "engine/nn/layer.h"

namespace moe {

class RoutingObserver {
 public:
  virtual ~RoutingObserver() = default;
  // The passes of a step begin, perhaps once more: what was seen of it so far does not count.
  virtual void restart() = 0;
  // One layer's choices in one pass, before drops; -1 where a token was not routed. `layer` counts MoE layers from 0.
  // On a GPU those of a training step come at its end, when what the pass points to is no more.
  virtual void routed(size_t layer, const engine::nn::Pass& pass, engine::ConstTensor topk_idx_TK) = 0;
};

}  // namespace moe
