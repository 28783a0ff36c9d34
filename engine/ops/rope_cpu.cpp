#include "engine/ops/rope.h"

#include "engine/core/simd.h"
#include "engine/core/thread_pool.h"

namespace engine::ops::SIMD_TARGET {

void rope(const Rope& a) {
  const int64_t pairs = a.head_dim / 2;
  const int64_t step = a.interleave ? 2 : 1, apart = a.interleave ? 1 : pairs;
  const float sign = a.inverse ? -1.0f : 1.0f;
  parallel_ranges(a.x_THC.rows(), 16, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const float* cos = a.cos_PC.f32() + a.positions[t] * pairs;
      const float* sin = a.sin_PC.f32() + a.positions[t] * pairs;
      for (int64_t h = 0; h < a.num_heads; ++h) {
        float* x = a.x_THC.f32() + t * a.x_THC.row_stride + h * a.head_dim;
        for (int64_t i = 0; i < pairs; ++i) {
          const float first = x[i * step], second = x[i * step + apart], s = sign * sin[i];
          x[i * step] = first * cos[i] - second * s;
          x[i * step + apart] = second * cos[i] + first * s;
        }
      }
    }
  });
}

}  // namespace engine::ops::SIMD_TARGET
