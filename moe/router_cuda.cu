#include "moe/router.h"

#include "engine/core/cuda_reduce.cuh"

// One warp per token, in f32 throughout. What lanes share lies in shared memory; __syncwarp orders it.
namespace moe::cuda {
namespace {

using engine::kAllLanes;
using engine::kWarp;
using engine::launch;
using engine::Max;
using engine::Sum;
using engine::warp_reduce;

constexpr int kTokensPerBlock = 4;

struct Shape {
  int64_t T;
  int E, K;
};

__device__ int64_t token_of_warp() {
  return static_cast<int64_t>(blockIdx.x) * kTokensPerBlock + threadIdx.y;
}

struct Best {
  float value;
  int index;
};
__device__ Best better(Best a, Best b) {
  return b.value > a.value || (b.value == a.value && b.index < a.index) ? b : a;
}

// The largest of values[begin, end), the lower index of equal ones.
__device__ Best warp_best(const float* values, int begin, int end) {
  const int lane = static_cast<int>(threadIdx.x);
  Best best{Max::kNeutral, begin + lane < end ? begin + lane : end};
  for (int i = begin + lane; i < end; i += kWarp) best = better(best, {values[i], i});
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) {
    best = better(best, {__shfl_xor_sync(kAllLanes, best.value, lanes), __shfl_xor_sync(kAllLanes, best.index, lanes)});
  }
  return best;
}

// values[i] = x for the whole warp to see; all lanes have read what they need.
__device__ void set_value(float* values, int i, float x) {
  __syncwarp();
  if (threadIdx.x == 0) values[i] = x;
  __syncwarp();
}

// Takes the experts of groups a token may not choose from out of the values. `groups` is [2 * num_groups].
__device__ void mask_groups(const RouterOptions& options, float* values, int E, float* groups) {
  const int num_groups = static_cast<int>(options.num_groups), size = E / num_groups;
  float* chosen = groups + num_groups;
  for (int g = 0; g < num_groups; ++g) {
    const Best first = warp_best(values, g * size, (g + 1) * size);
    float score = first.value;
    if (options.scores == ScoreFunction::sigmoid && size > 1) {
      set_value(values, first.index, Max::kNeutral);
      score += warp_best(values, g * size, (g + 1) * size).value;
      set_value(values, first.index, first.value);
    }
    set_value(groups, g, score);
    set_value(chosen, g, 0);
  }
  for (int64_t i = 0; i < options.groups_per_token; ++i) {
    const int winner = warp_best(groups, 0, num_groups).index;
    set_value(groups, winner, Max::kNeutral);
    set_value(chosen, winner, 1);
  }
  for (int e = static_cast<int>(threadIdx.x); e < E; e += kWarp) {
    if (chosen[e / size] == 0) values[e] = Max::kNeutral;
  }
  __syncwarp();
}

__device__ float chosen_sum(const RouterOptions& options, const float* scores, const int32_t* idx, int K) {
  float sum = 0;
  for (int k = 0; k < K; ++k) sum += scores[idx[k]];
  return options.scores == ScoreFunction::sigmoid ? sum + 1e-20f : sum;
}

// Scores, log sum exp and entropy of one token.
__device__ void score_row(float* scores, float* lse, float* entropy, const float* z, int E, bool sigmoid) {
  const int lane = static_cast<int>(threadIdx.x);
  float top = Max::kNeutral, sum = 0, weighted = 0;
  for (int e = lane; e < E; e += kWarp) top = fmaxf(top, z[e]);
  top = warp_reduce(top, Max{});
  for (int e = lane; e < E; e += kWarp) sum += expf(z[e] - top);
  sum = warp_reduce(sum, Sum{});
  for (int e = lane; e < E; e += kWarp) {
    const float p = expf(z[e] - top) / sum;
    weighted += p * z[e];
    scores[e] = sigmoid ? 1.0f / (1.0f + expf(-z[e])) : p;
  }
  weighted = warp_reduce(weighted, Sum{});
  if (lane != 0) return;
  *lse = top + logf(sum);
  *entropy = *lse - weighted;
}

// The outputs of the forward pass, and its optional inputs.
struct Rows {
  float *scores, *weights, *lse, *entropy;
  int32_t* idx;
  const float *logits, *bias;
  const uint8_t* counted;
  int64_t first_row;
};

__global__ void forward_kernel(Rows rows, Shape shape, RouterOptions options) {
  EXTERN_SHARED(float, memory);
  const int64_t t = token_of_warp();
  const int E = shape.E, K = shape.K, lane = static_cast<int>(threadIdx.x);
  if (t >= shape.T) return;  // the whole warp
  float* values = memory + threadIdx.y * (E + 2 * options.num_groups);
  float* scores = rows.scores + t * E;
  int32_t* idx = rows.idx + t * K;
  float* weights = rows.weights + t * K;
  score_row(scores, rows.lse + t, rows.entropy + t, rows.logits + t * E, E, options.scores == ScoreFunction::sigmoid);
  if (rows.counted != nullptr && rows.counted[t] == 0) {
    for (int k = lane; k < K; k += kWarp) idx[k] = -1, weights[k] = 0;
    return;
  }
  for (int e = lane; e < E; e += kWarp) values[e] = rows.bias == nullptr ? scores[e] : scores[e] + rows.bias[e];
  __syncwarp();
  if (options.num_groups > 1 && !options.force_uniform) mask_groups(options, values, E, values + E);
  for (int k = 0; k < K; ++k) {
    const int uniform = static_cast<int>(((rows.first_row + t) * K + k) % E);
    const int expert = options.force_uniform ? uniform : warp_best(values, 0, E).index;
    set_value(values, expert, Max::kNeutral);
    if (lane == 0) idx[k] = expert;
  }
  if (lane != 0) return;
  const float divisor = options.normalize ? chosen_sum(options, scores, idx, K) : 1.0f;
  for (int k = 0; k < K; ++k) weights[k] = options.scaling * (scores[idx[k]] / divisor);
}

struct BackwardRows {
  float* dlogits;
  const float *dweights, *scores, *logits, *lse;
  const int32_t* idx;
  BalanceGradient balance;
};

// The last range that begins at or before row t; -1 without ranges.
__device__ int64_t range_of(const BalanceGradient& balance, int64_t t) {
  int64_t begin = 0, end = balance.count - 1;
  while (begin < end) {
    const int64_t middle = (begin + end + 1) / 2;
    if (t >= balance.offsets[middle]) {
      begin = middle;
    } else {
      end = middle - 1;
    }
  }
  return end < 0 ? -1 : begin;
}

// Adds d(loss)/d(s) of the weights to dscores; by one lane, since K is small and the order of the sum is kept.
__device__ void weights_backward(const BackwardRows& rows, int64_t t, int K, const RouterOptions& options,
                                 const float* scores, float* dscores) {
  const int32_t* idx = rows.idx + t * K;
  const float* dweights = rows.dweights + t * K;
  float divisor = 1, along = 0;
  if (options.normalize) {
    divisor = chosen_sum(options, scores, idx, K);
    for (int k = 0; k < K; ++k) along += dweights[k] * scores[idx[k]];
    along = along / (divisor * divisor);
  }
  for (int k = 0; k < K; ++k) dscores[idx[k]] += options.scaling * (dweights[k] / divisor - along);
}

// Adds d(loss)/d(s) of the balance loss, whose p is s or s / sum s.
__device__ void balance_backward(const float* dp, const float* scores, float* dscores, int E, bool sigmoid) {
  const int lane = static_cast<int>(threadIdx.x);
  float sum = 1, along = 0;
  if (sigmoid) {
    float part = 0;
    for (int e = lane; e < E; e += kWarp) part += scores[e];
    sum = warp_reduce(part, Sum{}) + 1e-20f;
    for (int e = lane; e < E; e += kWarp) along += dp[e] * (scores[e] / sum);
    along = warp_reduce(along, Sum{});
  }
  for (int e = lane; e < E; e += kWarp) dscores[e] += (dp[e] - along) / sum;
}

__global__ void backward_kernel(BackwardRows rows, Shape shape, RouterOptions options) {
  EXTERN_SHARED(float, memory);
  const int64_t t = token_of_warp();
  const int E = shape.E, lane = static_cast<int>(threadIdx.x);
  if (t >= shape.T) return;  // the whole warp
  const bool sigmoid = options.scores == ScoreFunction::sigmoid, routed = rows.idx[t * shape.K] >= 0;
  const int64_t range = range_of(rows.balance, t);
  const float *scores = rows.scores + t * E, *z = rows.logits + t * E;
  float *dscores = memory + threadIdx.y * E, *dlogits = rows.dlogits + t * E;
  for (int e = lane; e < E; e += kWarp) dscores[e] = 0;
  __syncwarp();
  if (lane == 0 && routed) weights_backward(rows, t, shape.K, options, scores, dscores);
  __syncwarp();
  if (routed && range >= 0 && rows.balance.dprobabilities != nullptr) {
    balance_backward(rows.balance.dprobabilities + range * E, scores, dscores, E, sigmoid);
  }
  float along = 0;
  for (int e = lane; e < E; e += kWarp) along += dscores[e] * scores[e];
  along = warp_reduce(along, Sum{});
  const bool with_z = routed && range >= 0 && rows.balance.z_factors != nullptr;
  const float lse = rows.lse[t], factor = with_z ? 2.0f * rows.balance.z_factors[range] * lse : 0.0f;
  for (int e = lane; e < E; e += kWarp) {
    const float s = scores[e];
    const float through_scores = sigmoid ? dscores[e] * (s * (1.0f - s)) : s * (dscores[e] - along);
    dlogits[e] = with_z ? through_scores + factor * expf(z[e] - lse) : through_scores;
  }
}

Shape shape_of(const ConstTensor& scores_TE, const ConstTensor& idx_TK) {
  return {scores_TE.rows(), static_cast<int>(scores_TE.columns()), static_cast<int>(idx_TK.columns())};
}

}  // namespace

void router_forward(const RouterForward& a) {
  const Shape shape = shape_of(a.logits_TE, a.topk_idx_TK);
  launch(forward_kernel, engine::blocks_for(shape.T, kTokensPerBlock), dim3(kWarp, kTokensPerBlock),
         kTokensPerBlock * (shape.E + 2 * a.options.num_groups) * 4, engine::device_stream(),
         Rows{.scores = a.scores_TE.f32(),
              .weights = a.topk_weights_TK.f32(),
              .lse = a.lse_T.f32(),
              .entropy = a.entropy_T.f32(),
              .idx = a.topk_idx_TK.i32(),
              .logits = a.logits_TE.f32(),
              .bias = a.bias_E.f32(),
              .counted = a.counted,
              .first_row = a.first_row},
         shape, a.options);
}

void router_backward(const RouterBackward& a) {
  const Shape shape = shape_of(a.scores_TE, a.topk_idx_TK);
  launch(backward_kernel, engine::blocks_for(shape.T, kTokensPerBlock), dim3(kWarp, kTokensPerBlock),
         int64_t{kTokensPerBlock} * shape.E * 4, engine::device_stream(),
         BackwardRows{.dlogits = a.dlogits_TE.f32(),
                      .dweights = a.dtopk_weights_TK.f32(),
                      .scores = a.scores_TE.f32(),
                      .logits = a.logits_TE.f32(),
                      .lse = a.lse_T.f32(),
                      .idx = a.topk_idx_TK.i32(),
                      .balance = a.balance},
         shape, a.options);
}

}  // namespace moe::cuda
