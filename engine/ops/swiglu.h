// SwiGLU: the gated activation between the projections of an FFN (Shazeer, "GLU variants improve transformer").
#pragma once

#include "engine/core/dispatch.h"
#include "engine/core/tensor.h"

namespace engine::ops {

// y[r,f] = silu(gate[r,f]) * up[r,f],  silu(x) = x / (1 + exp(-x)); y is overwritten.
struct SwigluForward {
  Tensor y_RF;
  ConstTensor gate_RF, up_RF;
};
void swiglu_forward(const SwigluForward& a);

// With s = 1 / (1 + exp(-gate)):
// dgate = dy * up * s * (1 + gate * (1 - s)),  dup = dy * gate * s
// Both are overwritten; dgate may be gate's memory and dup up's.
struct SwigluBackward {
  Tensor dgate_RF, dup_RF;
  ConstTensor dy_RF, gate_RF, up_RF;
};
void swiglu_backward(const SwigluBackward& a);

KERNEL(void swiglu_forward(const SwigluForward&); void swiglu_backward(const SwigluBackward&))

}  // namespace engine::ops
