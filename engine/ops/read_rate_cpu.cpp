#include "engine/ops/read_rate.h"

#include "engine/core/simd.h"

namespace engine::ops::SIMD_TARGET {

float read_all(const float* x, int64_t count) {
  simd::F16 sums[4];
  for (simd::F16& sum : sums) sum = simd::zero();
  for (int64_t i = 0; i < count; i += 4 * simd::kLanes) {
    for (int j = 0; j < 4; ++j) sums[j] = sums[j] + simd::load(x + i + j * simd::kLanes);
  }
  return simd::reduce_sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

}  // namespace engine::ops::SIMD_TARGET
