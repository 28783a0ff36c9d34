#include "engine/ops/residual_add.h"

#include "engine/core/thread_pool.h"

namespace engine::ops::SIMD_TARGET {

void residual_add(const ResidualAdd& a) {
  float* x = a.x_TD.f32();
  const float* y = a.y_TD.f32();
  parallel_ranges(a.x_TD.num_elements(), 16384, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) x[i] = x[i] + y[i];
  });
}

}  // namespace engine::ops::SIMD_TARGET
