#include "engine/ops/swiglu.h"

#include "engine/core/simd.h"
#include "engine/core/thread_pool.h"

namespace engine::ops::SIMD_TARGET {

using simd::F16;

namespace {

constexpr int64_t kGrain = 8192;

ALWAYS_INLINE F16 sigmoid(F16 x) {
  const F16 one = simd::broadcast(1.0f);
  return one / (one + simd::exp(simd::zero() - x));
}

}  // namespace

void swiglu_forward(const SwigluForward& a) {
  const float *gate = a.gate_RF.f32(), *up = a.up_RF.f32();
  float* y = a.y_RF.f32();
  parallel_ranges(a.y_RF.num_elements(), kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i += 16) {
      const int64_t n = end - i;
      if (n >= 16) {
        const F16 g = simd::load(gate + i);
        simd::store(y + i, g * sigmoid(g) * simd::load(up + i));
      } else {
        const F16 g = simd::load_first(gate + i, n);
        simd::store_first(y + i, g * sigmoid(g) * simd::load_first(up + i, n), n);
      }
    }
  });
}

void swiglu_backward(const SwigluBackward& a) {
  const float *gate = a.gate_RF.f32(), *up = a.up_RF.f32(), *dy = a.dy_RF.f32();
  float *dgate = a.dgate_RF.f32(), *dup = a.dup_RF.f32();
  const F16 one = simd::broadcast(1.0f);
  parallel_ranges(a.dy_RF.num_elements(), kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i += 16) {
      const int64_t n = end - i;
      const bool whole = n >= 16;
      const F16 g = whole ? simd::load(gate + i) : simd::load_first(gate + i, n);
      const F16 u = whole ? simd::load(up + i) : simd::load_first(up + i, n);
      const F16 d = whole ? simd::load(dy + i) : simd::load_first(dy + i, n);
      const F16 s = sigmoid(g);
      const F16 dg = d * u * (s * simd::fma(g, one - s, one)), du = d * (g * s);
      if (whole) {
        simd::store(dgate + i, dg);
        simd::store(dup + i, du);
      } else {
        simd::store_first(dgate + i, dg, n);
        simd::store_first(dup + i, du, n);
      }
    }
  });
}

}  // namespace engine::ops::SIMD_TARGET
