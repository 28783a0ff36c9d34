#include "engine/ops/gradient_finish.h"

#include "engine/core/thread_pool.h"

namespace engine::ops::SIMD_TARGET {

void gradient_finish(const GradientFinish& a) {
  float* gradient = a.gradient_N.f32();
  parallel_ranges(a.gradient_N.num_elements(), 16384, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      gradient[i] = static_cast<float>(a.sum_N[i]);
      a.sum_N[i] = 0;
    }
  });
}

}  // namespace engine::ops::SIMD_TARGET
