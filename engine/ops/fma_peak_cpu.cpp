#include "engine/ops/fma_peak.h"

#include "engine/core/simd.h"

namespace engine::ops::SIMD_TARGET {

// Ten independent chains of sixteen lanes hide the latency of the multiply-add.
double fma_rounds(int64_t rounds, float* sink) {
#if defined(__AVX512F__)
  constexpr int kChains = 20;
#else
  constexpr int kChains = 6;
#endif
  simd::F16 chains[kChains];
  for (int i = 0; i < kChains; ++i) chains[i] = simd::broadcast(static_cast<float>(i));
  const simd::F16 factor = simd::broadcast(0.999f), term = simd::broadcast(1e-3f);
  for (int64_t round = 0; round < rounds; ++round) {
    _Pragma("GCC unroll 20") for (int i = 0; i < kChains; ++i) chains[i] = simd::fma(chains[i], factor, term);
  }
  simd::F16 total = simd::zero();
  for (int i = 0; i < kChains; ++i) total = total + chains[i];
  *sink = simd::reduce_sum(total);
  return static_cast<double>(rounds) * kChains * simd::kLanes * 2;
}

}  // namespace engine::ops::SIMD_TARGET
