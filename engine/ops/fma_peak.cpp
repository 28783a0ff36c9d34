#include "engine/ops/fma_peak.h"

#include <algorithm>
#include <vector>

#include "engine/core/profiler.h"
#include "engine/core/thread_pool.h"

namespace engine::ops {
namespace {

double one_thread(int64_t rounds, float* sink) {
  DISPATCH_CPU(fma_rounds, rounds, sink);
}

}  // namespace

double measure_fma_peak_gflops() {
  constexpr int64_t kRounds = 200000, kTasksPerThread = 4, kMostTasks = 1024;
  float sinks[kMostTasks];
  double best = 0;
  const int64_t tasks = std::min(kMostTasks, kTasksPerThread * current_threads());
  for (int repetition = 0; repetition < 8; ++repetition) {
    double operations[kMostTasks];
    const double start = monotonic_seconds();
    parallel_for(tasks, [&](int64_t i) { operations[i] = one_thread(kRounds, &sinks[i]); });
    const double seconds = monotonic_seconds() - start;
    double total = 0;
    for (int64_t i = 0; i < tasks; ++i) total += operations[i];
    best = std::max(best, total / seconds * 1e-9);
  }
  return best;
}

}  // namespace engine::ops
