// The learned gate on a shared expert (Qwen2-MoE).
#pragma once

#include "engine/core/dispatch.h"
#include "engine/core/tensor.h"

namespace engine::ops {

// y[t,d] = s[t] * x[t,d],  s[t] = 1 / (1 + exp(-logit[t])); y is overwritten and may be x.
struct SigmoidGateForward {
  Tensor y_TD;
  ConstTensor x_TD, logit_T;
};
void sigmoid_gate_forward(const SigmoidGateForward& a);

// dx[t,d] = s[t] * dy[t,d],  dlogit[t] = s[t] * (1 - s[t]) * sum_d dy[t,d] * x[t,d]; both are overwritten.
struct SigmoidGateBackward {
  Tensor dx_TD, dlogit_T;
  ConstTensor dy_TD, x_TD, logit_T;
};
void sigmoid_gate_backward(const SigmoidGateBackward& a);

KERNEL(void sigmoid_gate_forward(const SigmoidGateForward&); void sigmoid_gate_backward(const SigmoidGateBackward&))

}  // namespace engine::ops
