#include "engine/ops/adamw.h"

#include "engine/core/simd.h"
#include "engine/core/thread_pool.h"

namespace engine::ops::SIMD_TARGET {

using simd::F16;

namespace {

struct Factors {
  F16 clip, keep, beta1, beta2, rest1, rest2, rate, root, eps;
};

struct Element {
  F16 weight, m, v;
};

ALWAYS_INLINE Element update(Element x, F16 gradient, const Factors& f) {
  const F16 g = gradient * f.clip;
  x.m = simd::fma(f.beta1, x.m, f.rest1 * g);
  x.v = simd::fma(f.beta2, x.v, f.rest2 * (g * g));
  const F16 denominator = simd::sqrt(x.v) / f.root + f.eps;
  x.weight = x.weight * f.keep - f.rate * (x.m / denominator);
  return x;
}

}  // namespace

void adamw(const AdamW& a) {
  const Factors f{.clip = simd::broadcast(a.clip),
                  .keep = simd::broadcast(1.0f - a.lr * a.weight_decay),
                  .beta1 = simd::broadcast(a.beta1),
                  .beta2 = simd::broadcast(a.beta2),
                  .rest1 = simd::broadcast(1.0f - a.beta1),
                  .rest2 = simd::broadcast(1.0f - a.beta2),
                  .rate = simd::broadcast(a.lr / a.bias_correction1),
                  .root = simd::broadcast(__builtin_sqrtf(a.bias_correction2)),
                  .eps = simd::broadcast(a.eps)};
  float *weight = a.weight_N.f32(), *m = a.m_N.f32(), *v = a.v_N.f32();
  const float* gradient = a.gradient_N.f32();
  parallel_ranges(a.weight_N.num_elements(), 16384, [&](int64_t begin, int64_t end) {
    int64_t i = begin;
    for (; i + 16 <= end; i += 16) {
      const Element x =
          update({simd::load(weight + i), simd::load(m + i), simd::load(v + i)}, simd::load(gradient + i), f);
      simd::store(weight + i, x.weight);
      simd::store(m + i, x.m);
      simd::store(v + i, x.v);
    }
    if (i < end) {
      const int64_t n = end - i;
      const Element x =
          update({simd::load_first(weight + i, n), simd::load_first(m + i, n), simd::load_first(v + i, n)},
                 simd::load_first(gradient + i, n), f);
      simd::store_first(weight + i, x.weight, n);
      simd::store_first(m + i, x.m, n);
      simd::store_first(v + i, x.v, n);
    }
  });
}

}  // namespace engine::ops::SIMD_TARGET
