// Binary search by one thread of a kernel.
#pragma once

#include <cstdint>

#include "engine/core/cuda_launch.cuh"

namespace engine {

// The first place in [begin, end) of what is sorted there that is not below `value`; `end` if all of it is.
template <class T>
__device__ __forceinline__ int64_t first_not_below(const T* sorted, int64_t begin, int64_t end, int64_t value) {
  while (begin < end) {
    const int64_t middle = (begin + end) / 2;
    if (sorted[middle] < value) {
      begin = middle + 1;
    } else {
      end = middle;
    }
  }
  return begin;
}

}  // namespace engine
