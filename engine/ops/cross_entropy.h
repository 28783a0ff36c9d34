// Softmax cross-entropy of a chunk of logits, with its gradient in the same sweep.
#pragma once

#include "engine/core/dispatch.h"
#include "engine/core/tensor.h"

namespace engine::ops {

// losses[t] = log sum_v exp(logits[t,v]) - logits[t, targets[t]]                in nats; 0 where targets[t] is -1
// dlogits[t,v] = (softmax(logits[t])[v] - [v == targets[t]]) * scale            0 where targets[t] is -1
// Both are overwritten. dlogits may be logits' memory, or absent; on a GPU
// also bf16 where logits are f32. A target outside of [-1, V) throws Error(data), on a
// GPU it gives NaN.
struct CrossEntropy {
  Tensor losses_T, dlogits_TV;
  ConstTensor logits_TV, targets_T;  // targets i32
  float scale = 0;
};
void cross_entropy(const CrossEntropy& a);

KERNEL(void cross_entropy(const CrossEntropy&))

}  // namespace engine::ops
