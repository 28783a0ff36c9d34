#include "moe/routing_sums.h"

#include "engine/core/cuda_launch.cuh"

// A block adds up kRoutingBlock rows of a range, a thread for each sum.
namespace moe::cuda {
namespace {

using engine::data_of;
using engine::launch;

constexpr unsigned kThreads = 256;

struct Rows {
  const float *scores, *weights, *lse, *entropy;
  const int32_t* idx;
  int E, K;
  bool divide;
};

__device__ double probability(const Rows& rows, int64_t t, int e) {
  const float* scores = rows.scores + t * rows.E;
  if (!rows.divide) return static_cast<double>(scores[e]);
  float total = 1e-20f;
  for (int i = 0; i < rows.E; ++i) total = total + scores[i];
  return static_cast<double>(scores[e] / total);
}

__device__ double choices(const Rows& rows, int64_t t, int e) {
  double count = 0;
  for (int k = 0; k < rows.K; ++k) count += rows.idx[t * rows.K + k] == e ? 1 : 0;
  return count;
}

// What row t adds to sum `place` of its range.
__device__ double term(const Rows& rows, int64_t t, int place) {
  if (place < rows.E) return probability(rows, t, place);
  if (place < 2 * rows.E) return choices(rows, t, place - rows.E);
  switch (place - 2 * rows.E) {
    case kCounted:
      return 1;
    case kSquaredLse:
      return static_cast<double>(rows.lse[t]) * static_cast<double>(rows.lse[t]);
    case kEntropy:
      return static_cast<double>(rows.entropy[t]);
    default:
      return static_cast<double>(rows.weights[t * rows.K]);
  }
}

__global__ void sums_kernel(double* block_sums, Rows rows, int64_t begin, int64_t end) {
  const int width = 2 * rows.E + 4;
  const int64_t first = begin + blockIdx.x * kRoutingBlock;
  const int64_t last = first + kRoutingBlock < end ? first + kRoutingBlock : end;
  for (int place = static_cast<int>(threadIdx.x); place < width; place += static_cast<int>(blockDim.x)) {
    double sum = 0;
    for (int64_t t = first; t < last; ++t) {
      if (rows.idx[t * rows.K] >= 0) sum += term(rows, t, place);
    }
    block_sums[blockIdx.x * width + place] = sum;
  }
}

}  // namespace

void routing_sums(const RoutingSums& a) {
  const Rows rows{.scores = a.scores_TE.f32(),
                  .weights = a.topk_weights_TK.f32(),
                  .lse = a.lse_T.f32(),
                  .entropy = a.entropy_T.f32(),
                  .idx = a.topk_idx_TK.i32(),
                  .E = static_cast<int>(a.scores_TE.columns()),
                  .K = static_cast<int>(a.topk_idx_TK.columns()),
                  .divide = a.divide};
  const int64_t width = routing_sums_width(rows.E);
  double* next = a.block_sums;
  for (int64_t i = 0; i < a.count; ++i) {
    const unsigned blocks = engine::blocks_for(a.offsets[i + 1] - a.offsets[i], kRoutingBlock);
    launch(sums_kernel, blocks, kThreads, 0, engine::device_stream(), next, rows, a.offsets[i], a.offsets[i + 1]);
    next += blocks * width;
  }
}

}  // namespace moe::cuda
