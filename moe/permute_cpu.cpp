#include "moe/permute.h"

#include "engine/core/simd.h"
#include "engine/core/thread_pool.h"

namespace moe::SIMD_TARGET {

namespace simd = engine::simd;
using simd::F16;

void permute(const Permute& a) {
  const int64_t D = a.x_TD.columns();
  engine::parallel_ranges(a.y_ND.rows(), 16, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      float* to = a.y_ND.f32() + n * a.y_ND.row_stride;
      if (a.rows[n] < 0) {
        for (int64_t d = 0; d < D; ++d) to[d] = 0.0f;
        continue;
      }
      const float* from = a.x_TD.f32() + a.rows[n] * a.x_TD.row_stride;
      if (a.scales == nullptr) {
        for (int64_t d = 0; d < D; ++d) to[d] = from[d];
      } else {
        const float scale = a.scales[n];
        for (int64_t d = 0; d < D; ++d) to[d] = scale * from[d];
      }
    }
  });
}

void unpermute(const Unpermute& a) {
  const int64_t D = a.x_ND.columns(), K = a.num_slots;
  engine::parallel_ranges(a.y_TD.rows(), 16, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      float* y = a.y_TD.f32() + t * a.y_TD.row_stride;
      for (int64_t d = 0; d < D; ++d) y[d] = 0.0f;
      for (int64_t k = 0; k < K; ++k) {
        const int32_t row = a.rows_TK[t * K + k];
        if (row < 0) continue;
        const float* x = a.x_ND.f32() + row * a.x_ND.row_stride;
        const float weight = a.weights_TK == nullptr ? 1.0f : a.weights_TK[t * K + k];
        int64_t d = 0;
        for (; d + 16 <= D; d += 16) {
          simd::store(y + d, simd::fma(simd::broadcast(weight), simd::load(x + d), simd::load(y + d)));
        }
        for (; d < D; ++d) y[d] = simd::fma(weight, x[d], y[d]);
      }
    }
  });
}

void unpermute_weights_backward(const UnpermuteWeightsBackward& a) {
  const int64_t D = a.x_ND.columns(), K = a.dweights_TK.columns();
  engine::parallel_ranges(a.dy_TD.rows(), 16, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const float* dy = a.dy_TD.f32() + t * a.dy_TD.row_stride;
      for (int64_t k = 0; k < K; ++k) {
        const int32_t row = a.rows_TK[t * K + k];
        float* dweight = a.dweights_TK.f32() + t * K + k;
        *dweight = 0;
        if (row < 0) continue;
        const float* x = a.x_ND.f32() + row * a.x_ND.row_stride;
        F16 dots = simd::zero();
        int64_t d = 0;
        for (; d + 16 <= D; d += 16) dots = simd::fma(simd::load(dy + d), simd::load(x + d), dots);
        if (d < D) dots = simd::fma(simd::load_first(dy + d, D - d), simd::load_first(x + d, D - d), dots);
        *dweight = simd::reduce_sum(dots);
      }
    }
  });
}

}  // namespace moe::SIMD_TARGET
