#include "moe/routing_sums.h"

#include "engine/core/cuda_launch.cuh"

// A block adds up kRoutingBlock rows of a range, a thread for each sum; then a thread for each sum adds up the blocks.
namespace moe::cuda {
namespace {

using engine::global_thread;
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

// Block (b, i) of the grid: rows of range i from its row b * kRoutingBlock on.
__global__ void blocks_kernel(double* block_sums, Rows rows, const int64_t* offsets) {
  const int64_t width = routing_sums_width(rows.E);
  const int64_t i = blockIdx.y, first = offsets[i] + blockIdx.x * kRoutingBlock, end = offsets[i + 1];
  const int64_t last = first + kRoutingBlock < end ? first + kRoutingBlock : end;
  double* sums = block_sums + (i * gridDim.x + blockIdx.x) * width;
  for (int place = static_cast<int>(threadIdx.x); place < 2 * rows.E + kAuxLoss; place += kThreads) {
    double sum = 0;
    for (int64_t t = first; t < last; ++t) {
      if (rows.idx[t * rows.K] >= 0) sum += term(rows, t, place);
    }
    sums[place] = sum;
  }
}

// A thread for each sum of range blockIdx.y.
__global__ void add_kernel(double* sums, const double* block_sums, const int64_t* offsets, int64_t width,
                           int64_t most_blocks) {
  const int64_t place = global_thread(), i = blockIdx.y;
  if (place >= width - 1) return;  // the last one, kAuxLoss, is not ours
  const int64_t blocks = (offsets[i + 1] - offsets[i] + kRoutingBlock - 1) / kRoutingBlock;
  double sum = sums[i * width + place];
  for (int64_t b = 0; b < blocks; ++b) sum += block_sums[(i * most_blocks + b) * width + place];
  sums[i * width + place] = sum;
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
  const int64_t width = routing_sums_width(rows.E), offsets_bytes = (a.count + 1) * 8;
  int64_t longest = 0;
  for (int64_t i = 0; i < a.count; ++i) {
    const int64_t length = a.offsets[i + 1] - a.offsets[i];
    longest = length > longest ? length : longest;
  }
  if (longest == 0) return;
  const unsigned blocks = engine::blocks_for(longest, kRoutingBlock), ranges = static_cast<unsigned>(a.count);
  auto* block_sums = static_cast<double*>(engine::device_scratch(a.count * blocks * width * 8 + offsets_bytes));
  auto* offsets = reinterpret_cast<int64_t*>(block_sums + a.count * blocks * width);
  engine::copy_to_device(offsets, a.offsets, offsets_bytes);
  launch(blocks_kernel, dim3(blocks, ranges), kThreads, 0, engine::device_stream(), block_sums, rows, offsets);
  launch(add_kernel, dim3(engine::blocks_for(width, kThreads), ranges), kThreads, 0, engine::device_stream(), a.sums,
         block_sums, offsets, width, int64_t{blocks});
}

}  // namespace moe::cuda
