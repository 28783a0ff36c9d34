// The end of a granule in a weight gradient's chain; for kernel files only.
#pragma once

#include "engine/core/gradient.h"
#include "engine/core/simd.h"

namespace engine::simd {
inline namespace SIMD_TARGET {

// Largest |p| of a task, merged into WeightGradient::max_bits once at its end. As integers the bits of absolute
// values order like the values, and everything not finite comes last.
struct MaxBits {
  int32_t bits = 0;

  ALWAYS_INLINE void add(F16 p, int64_t n = kLanes) {
    float lanes[kLanes];
    store(lanes, abs(p));
    for (int64_t i = 0; i < n; ++i) add(lanes[i]);
  }
  ALWAYS_INLINE void add(float p) {
    int32_t b = __builtin_bit_cast(int32_t, p) & 0x7fffffff;
    bits = b > bits ? b : bits;
  }
  ALWAYS_INLINE void merge_into(uint32_t* shared) const {
    if (shared == nullptr) return;
    uint32_t mine = static_cast<uint32_t>(bits);
    uint32_t seen = __atomic_load_n(shared, __ATOMIC_RELAXED);
    while (mine > seen && !__atomic_compare_exchange_n(shared, &seen, mine, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
  }
};

// Adds `count` values p of a granule to an exact sum.
ALWAYS_INLINE void add_to_sum(double* sum, const float* p, int64_t count, double grid, MaxBits& largest) {
  int32_t bits = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int32_t b = __builtin_bit_cast(int32_t, p[i]) & 0x7fffffff;
    bits = b > bits ? b : bits;
    const double rounded = static_cast<double>(p[i]) + grid;
    sum[i] += rounded - grid;
  }
  largest.bits = bits > largest.bits ? bits : largest.bits;
}

// Adds elements [begin, begin + count) of the chain to the exact sum and sets the chain to zero.
// Without a sum (one granule per step) the chain stays: it is the gradient.
ALWAYS_INLINE void end_granule(const WeightGradient& gradient, int64_t begin, int64_t count, MaxBits& largest) {
  if (gradient.sum == nullptr) return;
  float* chain = gradient.chain.f32() + begin;
  add_to_sum(gradient.sum + begin, chain, count, gradient.grid, largest);
  for (int64_t i = 0; i < count; ++i) chain[i] = 0.0f;
}

}  // namespace SIMD_TARGET
}  // namespace engine::simd
