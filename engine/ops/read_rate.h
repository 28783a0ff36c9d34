// The memory limit of this machine, for benchmarks: numbers that come from memory and are only added.
#pragma once

#include "engine/core/buffer.h"
#include "engine/core/dispatch.h"

namespace engine::ops {

// A block that no cache holds.
class ReadBlock {
 public:
  ReadBlock();
  // Bytes per second of all threads of the current pool in one sweep over it.
  double sweep() const;

 private:
  Buffer block_;
};

// The best of several sweeps.
double measure_read_bytes_per_second();

// The sum of x[0] to x[count - 1], count a multiple of 64; so that the numbers are read.
KERNEL(float read_all(const float* x, int64_t count))

}  // namespace engine::ops
