#include "engine/ops/adamw.h"

#include <iterator>

#include "engine/core/simd.h"
#include "engine/core/thread_pool.h"

namespace engine::ops::SIMD_TARGET {

using simd::F16;
using simd::I16;

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

ALWAYS_INLINE I16 same_bits(F16 a, F16 b) {
  return simd::as_int(a) == simd::as_int(b);
}

ALWAYS_INLINE bool in_all_lanes(I16 mask) {
  bool all = true;
  for (size_t p = 0; p < std::size(mask.part);
       ++p) {  // a reference to a part may be misaligned, says gcc 12's sanitizer
    for (int lane = 0; lane < SIMD_WIDTH; ++lane) all &= mask.part[p][lane] != 0;
  }
  return all;
}

// Sixteen elements of the gradient, or the first n; they are zero afterwards.
ALWAYS_INLINE F16 take(float* gradient, int64_t n = 16) {
  const F16 g = simd::load_first(gradient, n);
  simd::store_first(gradient, simd::zero(), n);
  return g;
}
ALWAYS_INLINE F16 take(double* gradient, int64_t n = 16) {
  float rounded[16];
  for (int64_t j = 0; j < 16; ++j) rounded[j] = j < n ? static_cast<float>(gradient[j]) : 0.0f;
  for (int64_t j = 0; j < n; ++j) gradient[j] = 0;
  return simd::load(rounded);
}

template <class G>
void update_all(const AdamW& a, G* gradient) {
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
  const auto update_block = [&](int64_t begin, int64_t end) {
    int64_t i = begin;
    I16 same = simd::broadcast_int(-1);
    for (; i + 16 <= end; i += 16) {
      const Element before{simd::load(weight + i), simd::load(m + i), simd::load(v + i)};
      const Element x = update(before, take(gradient + i), f);
      same = same & same_bits(before.weight, x.weight);
      simd::store(weight + i, x.weight);
      simd::store(m + i, x.m);
      simd::store(v + i, x.v);
    }
    if (i < end) {
      const int64_t n = end - i;
      const Element before{simd::load_first(weight + i, n), simd::load_first(m + i, n), simd::load_first(v + i, n)};
      const Element x = update(before, take(gradient + i, n), f);
      same = same & same_bits(before.weight, x.weight);
      simd::store_first(weight + i, x.weight, n);
      simd::store_first(m + i, x.m, n);
      simd::store_first(v + i, x.v, n);
    }
    if (a.changed != nullptr && !in_all_lanes(same)) a.changed[begin / kChangedBlock] = 1;
  };
  parallel_ranges(a.weight_N.num_elements(), 4 * kChangedBlock, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i += kChangedBlock) {
      update_block(i, i + kChangedBlock < end ? i + kChangedBlock : end);
    }
  });
}

}  // namespace

void adamw(const AdamW& a) {
  a.gradient_N.dtype == DType::f64 ? update_all(a, a.gradient_N.f64()) : update_all(a, a.gradient_N.f32());
}

}  // namespace engine::ops::SIMD_TARGET
