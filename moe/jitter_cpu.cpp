#include "engine/core/thread_pool.h"
#include "moe/jitter.h"

namespace moe::SIMD_TARGET {

void jitter(const Jitter& a) {
  const int64_t D = a.x_TD.columns();
  engine::parallel_ranges(a.x_TD.rows(), 16, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      float* x = a.x_TD.f32() + t * a.x_TD.row_stride;
      const uint64_t first = static_cast<uint64_t>((a.first_row + t) * D);
      for (int64_t d = 0; d < D; ++d) x[d] *= jitter_factor(a.key, a.step, first + static_cast<uint64_t>(d), a.width);
    }
  });
}

}  // namespace moe::SIMD_TARGET
