#include "engine/ops/squared_norm.h"

#include "engine/core/thread_pool.h"

namespace engine::ops::SIMD_TARGET {

namespace {

template <class X>
ALWAYS_INLINE double square(X x) {
  const double value = static_cast<double>(static_cast<float>(x));
  return value * value;  // exact: the product of two floats
}

template <class X>
void sum_squares(const SquaredNorm& a, const X* x) {
  const int64_t N = a.x_N.num_elements();
  parallel_for((N + a.block - 1) / a.block, [&](int64_t b) {
    const int64_t begin = b * a.block, end = begin + a.block < N ? begin + a.block : N;
    double lanes[16] = {};
    int64_t i = begin;
    for (; i + 16 <= end; i += 16) {
      for (int j = 0; j < 16; ++j) lanes[j] += square(x[i + j]);
    }
    for (int j = 0; i + j < end; ++j) lanes[j] += square(x[i + j]);
    for (int half = 8; half > 0; half /= 2) {
      for (int j = 0; j < half; ++j) lanes[j] = lanes[j] + lanes[j + half];
    }
    a.block_sums[b] = lanes[0];
  });
}

}  // namespace

void squared_norm(const SquaredNorm& a) {
  a.x_N.dtype == DType::f64 ? sum_squares(a, a.x_N.f64()) : sum_squares(a, a.x_N.f32());
}

}  // namespace engine::ops::SIMD_TARGET
