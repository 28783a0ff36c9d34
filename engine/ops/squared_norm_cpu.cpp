#include "engine/ops/squared_norm.h"

#include "engine/core/thread_pool.h"

namespace engine::ops::SIMD_TARGET {

void squared_norm(const SquaredNorm& a) {
  const int64_t N = a.x_N.num_elements();
  const float* x = a.x_N.f32();
  parallel_for((N + a.block - 1) / a.block, [&](int64_t b) {
    const int64_t begin = b * a.block, end = begin + a.block < N ? begin + a.block : N;
    double lanes[16] = {};
    int64_t i = begin;
    for (; i + 16 <= end; i += 16) {
      for (int j = 0; j < 16; ++j) {
        const double value = static_cast<double>(x[i + j]);
        lanes[j] += value * value;  // the product of two floats is exact in double
      }
    }
    for (int j = 0; i + j < end; ++j) {
      const double value = static_cast<double>(x[i + j]);
      lanes[j] += value * value;
    }
    for (int half = 8; half > 0; half /= 2) {
      for (int j = 0; j < half; ++j) lanes[j] = lanes[j] + lanes[j + half];
    }
    a.block_sums[b] = lanes[0];
  });
}

}  // namespace engine::ops::SIMD_TARGET
