// The memory limit of this machine, for benchmarks: numbers that come from memory and are only added.
#pragma once

#include "engine/core/dispatch.h"

namespace engine::ops {

// Bytes per second that all threads of the current pool read from memory, the best of several sweeps over a block that
// no cache holds.
double measure_read_bytes_per_second();

// The sum of x[0] to x[count - 1], count a multiple of 64; so that the numbers are read.
KERNEL(float read_all(const float* x, int64_t count))

}  // namespace engine::ops
