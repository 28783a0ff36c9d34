// Rotary position embedding (Su et al., "RoFormer"), over the whole head.
#pragma once

#include "engine/core/dispatch.h"
#include "engine/core/tensor.h"

namespace engine::ops {

// cos[p,i] and sin[p,i] of the angle p * f[i], f[i] = theta^(-2 i / C) with C = 2 * columns. Frequency and angle are
// rounded to fp32 as transformers does, sine and cosine are those of that fp32 angle.
void rope_tables(Tensor cos_PC, Tensor sin_PC, double theta);

// Each head x of row t is rotated in place by the angles of position positions[t]. Half-split: the pairs are
// (x[i], x[i + C/2]); interleaved: (x[2i], x[2i + 1]).
//   first = first * cos - second * sin,  second = second * cos + first * sin
// `inverse` rotates back, which is the gradient: dx = R^T dy. Rows may be strided.
struct Rope {
  Tensor x_THC;
  const int32_t* positions = nullptr;  // [T]
  ConstTensor cos_PC, sin_PC;
  int64_t num_heads = 0, head_dim = 0;
  bool interleave = false, inverse = false;
};
void rope(const Rope& a);

KERNEL(void rope(const Rope&))

}  // namespace engine::ops
