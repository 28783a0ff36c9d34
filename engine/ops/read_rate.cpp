#include "engine/ops/read_rate.h"

#include <algorithm>
#include <cstring>

#include "engine/core/buffer.h"
#include "engine/core/profiler.h"
#include "engine/core/thread_pool.h"

namespace engine::ops {
namespace {

float read_part(const float* x, int64_t count) {
  DISPATCH_CPU(read_all, x, count);
}

}  // namespace

double measure_read_bytes_per_second() {
  constexpr int64_t kBytes = int64_t{128} << 20, kPart = int64_t{1} << 20, kParts = kBytes / kPart;
  Buffer block(kBytes);
  parallel_for(kParts, [&](int64_t i) { std::memset(block.data() + i * kPart, 1, static_cast<size_t>(kPart)); });
  float sums[kParts];
  double best = 0;
  for (int repetition = 0; repetition < 6; ++repetition) {
    const double start = monotonic_seconds();
    parallel_for(kParts, [&](int64_t i) { sums[i] = read_part(block.f32() + i * kPart / 4, kPart / 4); });
    best = std::max(best, static_cast<double>(kBytes) / (monotonic_seconds() - start));
  }
  for (int64_t i = 1; i < kParts; ++i) ENSURE(sums[i] == sums[0], "memory was not read");
  return best;
}

}  // namespace engine::ops
