#include "engine/ops/cross_entropy.h"

#include "engine/core/simd.h"
#include "engine/core/thread_pool.h"

namespace engine::ops::SIMD_TARGET {

using simd::F16;

namespace {

void one_row(const CrossEntropy& a, int64_t t) {
  const int64_t V = a.logits_TV.columns(), whole = V / 16 * 16, rest = V - whole;
  const float* logits = a.logits_TV.f32() + t * V;
  float* dlogits = a.dlogits_TV ? a.dlogits_TV.f32() + t * V : nullptr;
  const int32_t target = a.targets_T.i32()[t];
  if (target < 0) {
    a.losses_T.f32()[t] = 0;
    for (int64_t v = 0; dlogits != nullptr && v < V; ++v) dlogits[v] = 0;
    return;
  }
  const float lowest = -__builtin_inff();
  F16 largest = simd::broadcast(lowest);
  for (int64_t v = 0; v < whole; v += 16) largest = simd::max(largest, simd::load(logits + v));
  if (rest > 0) largest = simd::max(largest, simd::load_first(logits + whole, rest, lowest));
  const float top = simd::reduce_max(largest), target_logit = logits[target];
  F16 sums = simd::zero();
  for (int64_t v = 0; v < whole; v += 16) {
    const F16 e = simd::exp(simd::load(logits + v) - simd::broadcast(top));
    sums = sums + e;
    if (dlogits != nullptr) simd::store(dlogits + v, e);
  }
  if (rest > 0) {
    const F16 e = simd::exp(simd::load_first(logits + whole, rest, lowest) - simd::broadcast(top));
    sums = sums + e;
    if (dlogits != nullptr) simd::store_first(dlogits + whole, e, rest);
  }
  const float sum = simd::reduce_sum(sums);
  a.losses_T.f32()[t] = simd::log(sum) + top - target_logit;
  if (dlogits == nullptr) return;
  const float factor = a.scale / sum;
  for (int64_t v = 0; v < V; ++v) dlogits[v] = dlogits[v] * factor;
  dlogits[target] = dlogits[target] - a.scale;
}

}  // namespace

void cross_entropy(const CrossEntropy& a) {
  parallel_ranges(a.logits_TV.rows(), 4, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) one_row(a, t);
  });
}

}  // namespace engine::ops::SIMD_TARGET
