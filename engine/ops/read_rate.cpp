#include "engine/ops/read_rate.h"

#include <algorithm>
#include <cstring>

#include "engine/core/profiler.h"
#include "engine/core/thread_pool.h"

namespace engine::ops {
namespace {

float read_part(const float* x, int64_t count) {
  DISPATCH_CPU(read_all, x, count);
}

constexpr int64_t kBytes = int64_t{256} << 20, kPart = int64_t{1} << 20, kParts = kBytes / kPart;

}  // namespace

ReadBlock::ReadBlock() : block_(kBytes) {
  parallel_for(kParts, [&](int64_t i) { std::memset(block_.data() + i * kPart, 1, static_cast<size_t>(kPart)); });
}

double ReadBlock::sweep() const {
  float sums[kParts];
  const double start = monotonic_seconds();
  parallel_for(kParts, [&](int64_t i) { sums[i] = read_part(block_.f32() + i * kPart / 4, kPart / 4); });
  const double seconds = monotonic_seconds() - start;
  for (int64_t i = 1; i < kParts; ++i) ENSURE(sums[i] == sums[0], "memory was not read");
  return static_cast<double>(kBytes) / seconds;
}

double measure_read_bytes_per_second() {
  const ReadBlock block;
  double best = 0;
  for (int i = 0; i < 6; ++i) best = std::max(best, block.sweep());
  return best;
}

}  // namespace engine::ops
