// AdamW (Loshchilov and Hutter, "Decoupled weight decay regularization"), in PyTorch's order of operations.
#pragma once

#include "engine/core/dispatch.h"
#include "engine/core/tensor.h"

namespace engine::ops {

inline constexpr int64_t kChangedBlock = 4096;  // elements

// g = gradient * clip
// w = w * (1 - lr * weight_decay)
// m = beta1 * m + (1 - beta1) * g
// v = beta2 * v + (1 - beta2) * g^2
// w = w - (lr / bias_correction1) * m / (sqrt(v) / sqrt(bias_correction2) + eps)
// weight, m and v are updated in place. The gradient is f32, or f64 (exact sums) and rounded to f32 as it is read; it
// is zero afterwards. Where the bits of any weight of a block change, its mark becomes 1; none is ever set back.
struct AdamW {
  Tensor weight_N, m_N, v_N, gradient_N;
  float lr = 0, beta1 = 0.9f, beta2 = 0.95f, eps = 1e-8f, weight_decay = 0, clip = 1;
  float bias_correction1 = 1, bias_correction2 = 1;
  uint32_t* changed = nullptr;  // [ceil(N / kChangedBlock)] on the tensors' device, or null
};
void adamw(const AdamW& a);

// 1 - beta1^step and 1 - beta2^step, by repeated squaring so that every machine gets the same bits.
struct BiasCorrections {
  double first, second;
};
BiasCorrections adamw_bias_corrections(double beta1, double beta2, int64_t step);

KERNEL(void adamw(const AdamW&))

}  // namespace engine::ops
