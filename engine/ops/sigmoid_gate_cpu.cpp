#include "engine/ops/sigmoid_gate.h"

#include "engine/core/simd.h"
#include "engine/core/thread_pool.h"

namespace engine::ops::SIMD_TARGET {

using simd::F16;

namespace {

ALWAYS_INLINE float sigmoid(float x) {
  return 1.0f / (1.0f + simd::exp(-x));
}

}  // namespace

void sigmoid_gate_forward(const SigmoidGateForward& a) {
  const int64_t D = a.x_TD.columns();
  parallel_ranges(a.x_TD.rows(), 16, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const float s = sigmoid(a.logit_T.f32()[t]);
      const float* x = a.x_TD.f32() + t * a.x_TD.row_stride;
      float* y = a.y_TD.f32() + t * a.y_TD.row_stride;
      for (int64_t d = 0; d < D; ++d) y[d] = s * x[d];
    }
  });
}

void sigmoid_gate_backward(const SigmoidGateBackward& a) {
  const int64_t D = a.x_TD.columns();
  parallel_ranges(a.x_TD.rows(), 16, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const float s = sigmoid(a.logit_T.f32()[t]);
      const float* x = a.x_TD.f32() + t * a.x_TD.row_stride;
      const float* dy = a.dy_TD.f32() + t * a.dy_TD.row_stride;
      float* dx = a.dx_TD.f32() + t * a.dx_TD.row_stride;
      F16 dots = simd::zero();
      for (int64_t d = 0; d < D; d += 16) {
        const int64_t n = D - d < 16 ? D - d : 16;
        dots = simd::fma(simd::load_first(dy + d, n), simd::load_first(x + d, n), dots);
      }
      for (int64_t d = 0; d < D; ++d) dx[d] = s * dy[d];
      a.dlogit_T.f32()[t] = s * (1.0f - s) * simd::reduce_sum(dots);
    }
  });
}

}  // namespace engine::ops::SIMD_TARGET
