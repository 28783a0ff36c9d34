#include "moe/routing_sums.h"

#include "engine/core/thread_pool.h"

namespace moe::SIMD_TARGET {
namespace {

void add_row(const RoutingSums& a, double* sums, int64_t t) {
  const int64_t E = a.scores_TE.columns(), K = a.topk_idx_TK.columns();
  const int32_t* idx = a.topk_idx_TK.i32() + t * K;
  if (idx[0] < 0) return;
  const float* scores = a.scores_TE.f32() + t * E;
  float total = 1.0f;
  if (a.divide) {  // as router_backward has it
    total = 1e-20f;
    for (int64_t e = 0; e < E; ++e) total = total + scores[e];
  }
  for (int64_t e = 0; e < E; ++e) sums[e] += static_cast<double>(scores[e] / total);
  for (int64_t k = 0; k < K; ++k) sums[E + idx[k]] += 1;
  double* others = sums + 2 * E;
  const double lse = static_cast<double>(a.lse_T.f32()[t]);
  others[kCounted] += 1;
  others[kSquaredLse] += lse * lse;
  others[kEntropy] += static_cast<double>(a.entropy_T.f32()[t]);
  others[kFirstWeight] += static_cast<double>(a.topk_weights_TK.f32()[t * K]);
}

}  // namespace

void routing_sums(const RoutingSums& a) {
  engine::parallel_for(a.count, [&](int64_t i) {
    double* sums = a.sums + i * routing_sums_width(a.scores_TE.columns());
    for (int64_t t = a.offsets[i]; t < a.offsets[i + 1]; ++t) add_row(a, sums, t);
  });
}

}  // namespace moe::SIMD_TARGET
