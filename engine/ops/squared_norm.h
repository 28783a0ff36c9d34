// Sums of squares by fixed blocks, so that shards cut at block boundaries give the same sums.
#pragma once

#include "engine/core/dispatch.h"
#include "engine/core/tensor.h"

namespace engine::ops {

// block_sums[b] = sum of x[i]^2 over b * block <= i < min((b + 1) * block, N), in double: sixteen lanes (element
// i goes to lane i mod 16), then a fixed tree. Overwritten. x is f32, or f64 and rounded to f32 before it is squared.
struct SquaredNorm {
  double* block_sums = nullptr;  // [ceil(N / block)]
  ConstTensor x_N;
  int64_t block = 4096;
};
void squared_norm(const SquaredNorm& a);

KERNEL(void squared_norm(const SquaredNorm&))

}  // namespace engine::ops
