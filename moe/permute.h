// Rows on their way to experts and back.
#pragma once

#include "engine/core/dispatch.h"
#include "engine/core/tensor.h"

namespace moe {

using engine::ConstTensor;
using engine::Tensor;

// y[n] = scale[n] * x[rows[n]]; without scales a copy; zeros for a row of -1. y is overwritten. This is permute, and
// with the routing weights as scales the gradient of unpermute.
struct Permute {
  Tensor y_ND;
  ConstTensor x_TD;
  const int32_t* rows = nullptr;  // [N]
  const float* scales = nullptr;  // [N] or null
};
void permute(const Permute& a);

// y[t] = sum over k in order of weights[t,k] * x[rows[t,k]], a row of -1 adds nothing; without weights a plain sum,
// which is the gradient of permute. y is overwritten.
struct Unpermute {
  Tensor y_TD;
  ConstTensor x_ND;
  const int32_t* rows_TK = nullptr;
  const float* weights_TK = nullptr;
  int64_t num_slots = 0;  // K
};
void unpermute(const Unpermute& a);

// dweights[t,k] = <dy[t], x[rows[t,k]]>, 0 for a row of -1.
struct UnpermuteWeightsBackward {
  Tensor dweights_TK;
  ConstTensor dy_TD, x_ND;
  const int32_t* rows_TK = nullptr;
};
void unpermute_weights_backward(const UnpermuteWeightsBackward& a);

KERNEL(void permute(const Permute&); void unpermute(const Unpermute&);
       void unpermute_weights_backward(const UnpermuteWeightsBackward&))

}  // namespace moe
