// The arithmetic limit of this machine, for benchmarks: fused multiply-adds that never leave the registers.
#pragma once

#include "engine/core/dispatch.h"

namespace engine::ops {

// Billions of floating-point operations per second of all threads of the current pool, the best of several short
// measurements at the instruction set in use.
double measure_fma_peak_gflops();

// Runs `rounds` rounds on one thread and returns their operations; `sink` receives a value so that nothing is
// optimised away.
KERNEL(double fma_rounds(int64_t rounds, float* sink))

}  // namespace engine::ops
