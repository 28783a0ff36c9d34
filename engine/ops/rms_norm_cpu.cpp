#include "engine/core/simd.h"
#include "engine/core/thread_pool.h"
#include "engine/ops/gradient_chain.h"
#include "engine/ops/rms_norm.h"

namespace engine::ops::SIMD_TARGET {

using simd::F16;

void rms_norm_forward(const RmsNormForward& a) {
  const int64_t T = a.x_TD.rows(), D = a.x_TD.columns(), whole = D / 16 * 16;
  const float* weight = a.weight_D.f32();
  parallel_ranges(T, 16, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const float* x = a.x_TD.f32() + t * a.x_TD.row_stride;
      float* y = a.y_TD.f32() + t * a.y_TD.row_stride;
      F16 squares = simd::zero();
      for (int64_t d = 0; d < whole; d += 16) squares = simd::fma(simd::load(x + d), simd::load(x + d), squares);
      if (whole < D) {
        F16 tail = simd::load_first(x + whole, D - whole);
        squares = simd::fma(tail, tail, squares);
      }
      float mean = simd::reduce_sum(squares) / static_cast<float>(D);
      float rstd = 1.0f / __builtin_sqrtf(mean + a.eps);
      a.rstd_T.f32()[t] = rstd;
      F16 scale = simd::broadcast(rstd);
      for (int64_t d = 0; d < whole; d += 16) simd::store(y + d, simd::load(x + d) * scale * simd::load(weight + d));
      for (int64_t d = whole; d < D; ++d) y[d] = x[d] * rstd * weight[d];
    }
  });
}

namespace {

void input_gradient(const RmsNormBackward& a, int64_t t) {
  const int64_t D = a.x_TD.columns(), whole = D / 16 * 16;
  const float* x = a.x_TD.f32() + t * a.x_TD.row_stride;
  const float* dy = a.dy_TD.f32() + t * a.dy_TD.row_stride;
  const float* weight = a.weight_D.f32();
  float* dx = a.dx_TD.f32() + t * a.dx_TD.row_stride;
  const float rstd = a.rstd_T.f32()[t];
  F16 dots = simd::zero();
  for (int64_t d = 0; d < whole; d += 16) {
    dots = simd::fma(simd::load(dy + d) * simd::load(weight + d), simd::load(x + d), dots);
  }
  if (whole < D) {
    F16 dy_weight = simd::load_first(dy + whole, D - whole) * simd::load_first(weight + whole, D - whole);
    dots = simd::fma(dy_weight, simd::load_first(x + whole, D - whole), dots);
  }
  const float along = simd::reduce_sum(dots) / static_cast<float>(D) * rstd * rstd;
  const auto gradient = [&](F16 x_d, F16 dy_d, F16 weight_d) {
    return (dy_d * weight_d - x_d * simd::broadcast(along)) * simd::broadcast(rstd);
  };
  for (int64_t d = 0; d < whole; d += 16) {
    const F16 g = gradient(simd::load(x + d), simd::load(dy + d), simd::load(weight + d));
    simd::store(dx + d, a.assign ? g : simd::load(dx + d) + g);
  }
  if (whole == D) return;
  const int64_t n = D - whole;
  const F16 g =
      gradient(simd::load_first(x + whole, n), simd::load_first(dy + whole, n), simd::load_first(weight + whole, n));
  simd::store_first(dx + whole, a.assign ? g : simd::load_first(dx + whole, n) + g, n);
}

constexpr int64_t kColumnsPerTask = 64;  // of dweight: rows are read in pieces of several lines

// Columns [begin, begin + n) of dweight over all granules of the pass.
void weight_gradient(const RmsNormBackward& a, int64_t begin, int64_t n) {
  simd::MaxBits largest;
  float* chain = a.dweight_D.chain.f32() + begin;
  for (int64_t g = 0; g < a.granules.count; ++g) {
    for (int64_t t = a.granules.offsets[g]; t < a.granules.offsets[g + 1]; ++t) {
      const float* x = a.x_TD.f32() + t * a.x_TD.row_stride + begin;
      const float* dy = a.dy_TD.f32() + t * a.dy_TD.row_stride + begin;
      const F16 rstd = simd::broadcast(a.rstd_T.f32()[t]);
      int64_t d = 0;
      for (; d + 16 <= n; d += 16) {
        const F16 sum = simd::fma(simd::load(dy + d), simd::load(x + d) * rstd, simd::load(chain + d));
        simd::store(chain + d, sum);
      }
      if (d == n) continue;
      const F16 tail = simd::load_first(x + d, n - d) * rstd;
      simd::store_first(chain + d, simd::fma(simd::load_first(dy + d, n - d), tail, simd::load_first(chain + d, n - d)),
                        n - d);
    }
    if (g + 1 < a.granules.count || a.granules.ends) simd::end_granule(a.dweight_D, begin, n, largest);
  }
  largest.merge_into(a.dweight_D.max_bits);
}

}  // namespace

void rms_norm_backward(const RmsNormBackward& a) {
  const int64_t T = a.x_TD.rows(), D = a.x_TD.columns();
  // dweight first: dx may be dy
  parallel_ranges(D, kColumnsPerTask, [&](int64_t begin, int64_t end) { weight_gradient(a, begin, end - begin); });
  parallel_ranges(T, 16, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) input_gradient(a, t);
  });
}

}  // namespace engine::ops::SIMD_TARGET
