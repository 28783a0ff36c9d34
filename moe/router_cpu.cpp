#include "moe/router.h"

#include "engine/core/simd.h"
#include "engine/core/thread_pool.h"

namespace moe::SIMD_TARGET {

namespace simd = engine::simd;
using simd::F16;

namespace {

constexpr int64_t kMostExperts = 1024;
const float kLowest = -__builtin_inff();

ALWAYS_INLINE int64_t lanes_left(int64_t e, int64_t E) {
  return E - e < 16 ? E - e : 16;
}

// Softmax of a row; also log sum exp and entropy = lse - sum_e p z.
void softmax_row(const float* z, int64_t E, float* p, float* lse, float* entropy) {
  F16 largest = simd::broadcast(kLowest);
  for (int64_t e = 0; e < E; e += 16) largest = simd::max(largest, simd::load_first(z + e, lanes_left(e, E), kLowest));
  const float top = simd::reduce_max(largest);
  F16 sums = simd::zero();
  for (int64_t e = 0; e < E; e += 16) {
    const int64_t n = lanes_left(e, E);
    const F16 x = simd::exp(simd::load_first(z + e, n, kLowest) - simd::broadcast(top));
    simd::store_first(p + e, x, n);
    sums = sums + x;
  }
  const float sum = simd::reduce_sum(sums);
  F16 weighted = simd::zero();
  for (int64_t e = 0; e < E; e += 16) {
    const int64_t n = lanes_left(e, E);
    const F16 x = simd::load_first(p + e, n) / simd::broadcast(sum);
    simd::store_first(p + e, x, n);
    weighted = simd::fma(x, simd::load_first(z + e, n), weighted);
  }
  *lse = top + simd::log(sum);
  *entropy = *lse - simd::reduce_sum(weighted);
}

void sigmoid_row(const float* z, int64_t E, float* s) {
  const F16 one = simd::broadcast(1.0f);
  for (int64_t e = 0; e < E; e += 16) {
    const int64_t n = lanes_left(e, E);
    simd::store_first(s + e, one / (one + simd::exp(simd::zero() - simd::load_first(z + e, n))), n);
  }
}

// The best of [begin, end) that is not taken yet: largest value, then lowest number; -1 if none.
int64_t best(const float* values, const bool* taken, int64_t begin, int64_t end) {
  int64_t winner = -1;
  for (int64_t e = begin; e < end; ++e) {
    if (!taken[e] && (winner < 0 || values[e] > values[winner])) winner = e;
  }
  return winner;
}

// Marks the experts outside of the groups a token may choose from as taken.
void mask_groups(const RouterOptions& options, const float* values, int64_t E, bool* taken) {
  const int64_t size = E / options.num_groups;
  float group_scores[kMostExperts];
  bool chosen[kMostExperts] = {};
  for (int64_t g = 0; g < options.num_groups; ++g) {
    const int64_t first = best(values, taken, g * size, (g + 1) * size);
    group_scores[g] = values[first];
    if (options.scores != ScoreFunction::sigmoid || size < 2) continue;
    taken[first] = true;
    group_scores[g] = group_scores[g] + values[best(values, taken, g * size, (g + 1) * size)];
    taken[first] = false;
  }
  for (int64_t i = 0; i < options.groups_per_token; ++i) {
    chosen[best(group_scores, chosen, 0, options.num_groups)] = true;
  }
  for (int64_t e = 0; e < E; ++e) taken[e] = !chosen[e / size];
}

void choose(const RouterForward& a, int64_t t, const float* scores, int32_t* idx) {
  const int64_t E = a.logits_TE.columns(), K = a.topk_idx_TK.columns();
  if (a.options.force_uniform) {
    for (int64_t k = 0; k < K; ++k) idx[k] = static_cast<int32_t>(((a.first_row + t) * K + k) % E);
    return;
  }
  float values[kMostExperts];
  bool taken[kMostExperts];
  for (int64_t e = 0; e < E; ++e) {
    values[e] = a.bias_E ? scores[e] + a.bias_E.f32()[e] : scores[e];
    taken[e] = false;
  }
  if (a.options.num_groups > 1) mask_groups(a.options, values, E, taken);
  for (int64_t k = 0; k < K; ++k) {
    const int64_t expert = best(values, taken, 0, E);
    taken[expert] = true;
    idx[k] = static_cast<int32_t>(expert);
  }
}

// The divisor of the chosen scores.
ALWAYS_INLINE float chosen_sum(const RouterOptions& options, const float* scores, const int32_t* idx, int64_t K) {
  float sum = 0;
  for (int64_t k = 0; k < K; ++k) sum = sum + scores[idx[k]];
  return options.scores == ScoreFunction::sigmoid ? sum + 1e-20f : sum;
}

}  // namespace

void router_forward(const RouterForward& a) {
  const int64_t E = a.logits_TE.columns(), K = a.topk_idx_TK.columns();
  engine::parallel_ranges(a.logits_TE.rows(), 32, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const float* z = a.logits_TE.f32() + t * E;
      float* scores = a.scores_TE.f32() + t * E;
      int32_t* idx = a.topk_idx_TK.i32() + t * K;
      float* weights = a.topk_weights_TK.f32() + t * K;
      softmax_row(z, E, scores, a.lse_T.f32() + t, a.entropy_T.f32() + t);
      if (a.options.scores == ScoreFunction::sigmoid) sigmoid_row(z, E, scores);
      if (a.counted != nullptr && a.counted[t] == 0) {
        for (int64_t k = 0; k < K; ++k) idx[k] = -1, weights[k] = 0;
        continue;
      }
      choose(a, t, scores, idx);
      const float divisor = a.options.normalize ? chosen_sum(a.options, scores, idx, K) : 1.0f;
      for (int64_t k = 0; k < K; ++k) weights[k] = a.options.scaling * (scores[idx[k]] / divisor);
    }
  });
}

namespace {

// Adds d(loss)/d(s) of the weights to dscores.
void weights_backward(const RouterBackward& a, int64_t t, const float* scores, float* dscores) {
  const int64_t K = a.topk_idx_TK.columns();
  const int32_t* idx = a.topk_idx_TK.i32() + t * K;
  const float* dweights = a.dtopk_weights_TK.f32() + t * K;
  if (idx[0] < 0) return;
  float divisor = 1, along = 0;
  if (a.options.normalize) {
    divisor = chosen_sum(a.options, scores, idx, K);
    for (int64_t k = 0; k < K; ++k) along = simd::fma(dweights[k], scores[idx[k]], along);
    along = along / (divisor * divisor);
  }
  for (int64_t k = 0; k < K; ++k) {
    dscores[idx[k]] = dscores[idx[k]] + a.options.scaling * (dweights[k] / divisor - along);
  }
}

// Adds d(loss)/d(s) of the balance loss, whose p is s or s / sum s.
void balance_backward(const RouterBackward& a, const float* dp, const float* scores, float* dscores) {
  const int64_t E = a.scores_TE.columns();
  float sum = 1, along = 0;
  if (a.options.scores == ScoreFunction::sigmoid) {
    sum = 1e-20f;
    for (int64_t e = 0; e < E; ++e) sum = sum + scores[e];
    for (int64_t e = 0; e < E; ++e) along = simd::fma(dp[e], scores[e] / sum, along);
  }
  for (int64_t e = 0; e < E; ++e) dscores[e] = dscores[e] + (dp[e] - along) / sum;
}

void one_row(const RouterBackward& a, int64_t t, int64_t range) {
  const int64_t E = a.scores_TE.columns();
  const float *scores = a.scores_TE.f32() + t * E, *z = a.logits_TE.f32() + t * E;
  float* dlogits = a.dlogits_TE.f32() + t * E;
  float dscores[kMostExperts];
  for (int64_t e = 0; e < E; ++e) dscores[e] = 0;
  const bool routed = a.topk_idx_TK.i32()[t * a.topk_idx_TK.columns()] >= 0;
  weights_backward(a, t, scores, dscores);
  if (routed && range >= 0 && a.balance.dprobabilities != nullptr) {
    balance_backward(a, a.balance.dprobabilities + range * E, scores, dscores);
  }
  if (a.options.scores == ScoreFunction::softmax) {
    float along = 0;
    for (int64_t e = 0; e < E; ++e) along = simd::fma(dscores[e], scores[e], along);
    for (int64_t e = 0; e < E; ++e) dlogits[e] = scores[e] * (dscores[e] - along);
  } else {
    for (int64_t e = 0; e < E; ++e) dlogits[e] = dscores[e] * (scores[e] * (1.0f - scores[e]));
  }
  if (!routed || range < 0 || a.balance.z_factors == nullptr) return;
  const float lse = a.lse_T.f32()[t], factor = 2.0f * a.balance.z_factors[range] * lse;
  for (int64_t e = 0; e < E; ++e) dlogits[e] = simd::fma(factor, simd::exp(z[e] - lse), dlogits[e]);
}

}  // namespace

void router_backward(const RouterBackward& a) {
  engine::parallel_ranges(a.scores_TE.rows(), 32, [&](int64_t begin, int64_t end) {
    int64_t range = -1;
    for (int64_t t = begin; t < end; ++t) {
      while (range + 1 < a.balance.count && t >= a.balance.offsets[range + 1]) ++range;
      if (range < 0 && a.balance.count > 0) range = 0;
      one_row(a, t, range);
    }
  });
}

}  // namespace moe::SIMD_TARGET
