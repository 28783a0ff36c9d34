// Root-mean-square normalization over the last dimension.
#pragma once

#include "engine/core/dispatch.h"
#include "engine/core/gradient.h"
#include "engine/core/tensor.h"

namespace engine::ops {

// y[t,d] = x[t,d] * rstd[t] * weight[d],  rstd[t] = 1 / sqrt(mean_d(x[t,d]^2) + eps)
// y is overwritten and may be x. Rows of x and y may be strided.
struct RmsNormForward {
  Tensor y_TD, rstd_T;
  ConstTensor x_TD, weight_D;
  float eps = 1e-6f;
};
void rms_norm_forward(const RmsNormForward& a);

// dx[t,d] += rstd[t] * (dy[t,d] * weight[d] - x[t,d] * rstd[t]^2 * mean_j(dy[t,j] * weight[j] * x[t,j]))
// dweight[d] += sum_t dy[t,d] * x[t,d] * rstd[t], a chain over the tokens of each granule.
// With `assign`, dx is overwritten instead, and may then be dy.
struct RmsNormBackward {
  Tensor dx_TD;
  WeightGradient dweight_D;
  ConstTensor dy_TD, x_TD, weight_D, rstd_T;
  GranuleRows granules;
  bool assign = false;
};
void rms_norm_backward(const RmsNormBackward& a);

KERNEL(void rms_norm_forward(const RmsNormForward&); void rms_norm_backward(const RmsNormBackward&))

}  // namespace engine::ops
