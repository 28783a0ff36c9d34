// The LM head fused with softmax cross-entropy: rows are taken in chunks, so the T x V logits never exist at once.
#pragma once

#include <cstdint>
#include <memory>

#include "engine/nn/layer.h"
#include "engine/nn/linear.h"

namespace engine::nn {

class LmHead {
 public:
  // Registers lm_head.weight [V, D], or shares `tied` (the embedding's weight) with a gradient chain of its own.
  LmHead(ParameterStore& store, int64_t vocab_size, int64_t hidden_size, double deviation, Parameter* tied);

  void plan(ArenaPlan& plan, int64_t max_rows);

  // losses_T[t] = -log softmax(x[t] W^T)[targets[t]], 0 where the target is -1. In training also
  // dx_TD = d(pass.loss_scale * sum of losses)/dx (overwritten), and the weight's gradient adds.
  void loss(const Pass& pass, ConstTensor x_TD, ConstTensor targets_T, Tensor losses_T, Tensor dx_TD);

  // logits_TV = x W^T
  void logits(ConstTensor x_TD, Tensor logits_TV) { linear_->forward(x_TD, logits_TV); }

 private:
  void loss_of_chunk(const Pass& pass, ConstTensor x_TD, ConstTensor targets_T, Tensor losses_T, Tensor dx_TD,
                     bool begins_granule, bool ends_granule);

  std::unique_ptr<Linear> linear_;
  Device device_;
  int64_t vocab_size_;
  int64_t chunk_rows_ = 0;
  Slot logits_, dlogits_;
};

}  // namespace engine::nn
