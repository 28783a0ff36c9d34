// Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).
//
// Nothing is a stream: a number is a pure function of (key, counter), so it depends on no order, rank or thread.
// Keys are derived from the run's seed and the name of what is drawn.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "engine/core/tensor.h"

namespace engine {

using Philox4 = std::array<uint32_t, 4>;

// Ten rounds over a 128-bit counter under a 64-bit key; in kernels of a GPU, too.
ALWAYS_INLINE constexpr Philox4 philox(uint64_t key, uint64_t counter_low, uint64_t counter_high = 0) {
  uint32_t c0 = static_cast<uint32_t>(counter_low), c1 = static_cast<uint32_t>(counter_low >> 32);
  uint32_t c2 = static_cast<uint32_t>(counter_high), c3 = static_cast<uint32_t>(counter_high >> 32);
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53} * c0, p1 = uint64_t{0xCD9E8D57} * c2;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<uint32_t>(p1);
    c3 = static_cast<uint32_t>(p0);
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  return {c0, c1, c2, c3};
}

// A key for one purpose: "init/model.norm.weight", "windows", ...
uint64_t derive_key(uint64_t seed, std::string_view purpose);

// Uniform in [0, 1) with 24 bits.
ALWAYS_INLINE constexpr float uniform_from_bits(uint32_t bits) {
  return static_cast<float>(bits >> 8) * 0x1p-24f;
}
// Uniform integer in [0, bound), bound >= 1, from 64 bits by multiplication (bias below bound / 2^64).
uint64_t uniform_below(uint64_t bits, uint64_t bound);

// values[i] = mean-zero normal with standard deviation `deviation` for elements [first, first + count) of a tensor
// whose key is `key`; element i depends on (key, i) alone. Box-Muller through our own log and sincos.
void fill_normal(float* values, int64_t first, int64_t count, uint64_t key, float deviation);

}  // namespace engine
