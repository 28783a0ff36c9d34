// Sums and maxima over a warp or a block, in one order whatever the schedule: a butterfly in the warp, then the
// warps' results by another. Every thread gets the result.
#pragma once

#include "engine/core/cuda_launch.cuh"

namespace engine {

inline constexpr int kWarp = 32;
inline constexpr unsigned kAllLanes = 0xffffffffu;

struct Sum {
  static constexpr float kNeutral = 0.0f;
  __device__ float operator()(float a, float b) const { return a + b; }
};
struct Max {
  static constexpr float kNeutral = -__builtin_huge_valf();
  __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

template <class Combine>
__device__ __forceinline__ float warp_reduce(float x, Combine combine) {
#pragma unroll
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) x = combine(x, __shfl_xor_sync(kAllLanes, x, lanes));
  return x;
}

// blockDim.x is a multiple of 32, and all threads of the block call it.
template <class Combine>
__device__ __forceinline__ float block_reduce(float x, Combine combine) {
  x = warp_reduce(x, combine);
  if (blockDim.x == kWarp) return x;
  SHARED(float, partial, [32]);
  if (threadIdx.x % kWarp == 0) partial[threadIdx.x / kWarp] = x;
  __syncthreads();
  x = threadIdx.x % kWarp < blockDim.x / kWarp ? partial[threadIdx.x % kWarp] : Combine::kNeutral;
  __syncthreads();  // the next reduction writes there
  return warp_reduce(x, combine);
}

// Threads for a row of so many elements: a function of the width alone, as the order of its sums is.
inline unsigned threads_for_row(int64_t columns) {
  unsigned threads = kWarp;
  while (threads < 256 && threads * 4 < columns) threads *= 2;
  return threads;
}

}  // namespace engine
