#include "engine/core/cuda_reduce.cuh"
#include "engine/core/device_algorithms.h"
#include "engine/ops/embedding.h"
#include "engine/ops/gradient_chain.cuh"

namespace engine::ops::cuda {
namespace {

constexpr unsigned kThreads = 256;

// One block per token. Tokens cannot be checked by the host here: one outside of the table gives NaN.
template <class X>
__global__ void forward_kernel(X* y, const int32_t* tokens, const float* weight, int64_t V, int64_t D, int64_t y_stride,
                               int64_t weight_stride) {
  const int64_t t = blockIdx.x, token = tokens[t];
  const bool inside = token >= 0 && token < V;
  for (int64_t d = threadIdx.x; d < D; d += blockDim.x) {
    y[t * y_stride + d] = from_float<X>(inside ? weight[token * weight_stride + d] : __builtin_nanf(""));
  }
}

__global__ void number_rows_kernel(int32_t* rows, int64_t begin, int64_t count) {
  const int64_t i = global_thread();
  if (i < count) rows[i] = static_cast<int32_t>(begin + i);
}

// Tokens are sorted, their rows in order: the block at the first of equal tokens adds all of them, a chain.
template <class X>
__global__ void backward_kernel(float* chain, const X* dy, const int32_t* tokens, const int32_t* rows, int64_t count,
                                int64_t D, int64_t dy_stride, int64_t chain_stride) {
  const int64_t begin = blockIdx.x, token = tokens[begin];
  if (begin > 0 && tokens[begin - 1] == token) return;  // the whole block
  for (int64_t d = threadIdx.x; d < D; d += blockDim.x) {
    float sum = chain[token * chain_stride + d];
    for (int64_t i = begin; i < count && tokens[i] == token; ++i) sum = sum + to_float(dy[rows[i] * dy_stride + d]);
    chain[token * chain_stride + d] = sum;
  }
}

template <class X>
void add_granule(const EmbeddingBackward& a, int64_t begin, int64_t count) {
  const int64_t D = a.dy_TD.columns(), V = a.dweight_VD.chain.rows();
  const int64_t sort_bytes = sort_pairs_scratch_bytes(count, V);
  auto* rows = static_cast<int32_t*>(device_scratch(3 * count * 4 + 256 + sort_bytes));
  int32_t *sorted_tokens = rows + count, *sorted_rows = sorted_tokens + count;
  const int64_t used = (3 * count * 4 + 255) / 256 * 256;
  launch(number_rows_kernel, blocks_for(count, kThreads), kThreads, 0, device_stream(), rows, begin, count);
  sort_pairs({.keys = a.tokens_T.i32() + begin,
              .values = rows,
              .sorted_keys = sorted_tokens,
              .sorted_values = sorted_rows,
              .count = count,
              .num_keys = V,
              .scratch = reinterpret_cast<char*>(rows) + used,
              .stream = device_stream()});
  launch(backward_kernel<X>, blocks_for(count, 1), threads_for_row(D), 0, device_stream(), a.dweight_VD.chain.f32(),
         data_of<X>(a.dy_TD), sorted_tokens, sorted_rows, count, D, a.dy_TD.row_stride, a.dweight_VD.chain.row_stride);
}

}  // namespace

void embedding_forward(const EmbeddingForward& a) {
  with_storage({a.y_TD}, [&]<class X>(X) {
    launch(forward_kernel<X>, blocks_for(a.y_TD.rows(), 1), threads_for_row(a.y_TD.columns()), 0, device_stream(),
           data_of<X>(a.y_TD), a.tokens_T.i32(), a.weight_VD.f32(), a.weight_VD.rows(), a.y_TD.columns(),
           a.y_TD.row_stride, a.weight_VD.row_stride);
  });
}

void embedding_backward(const EmbeddingBackward& a) {
  with_storage({a.dy_TD}, [&]<class X>(X) {
    for (int64_t g = 0; g < a.granules.count; ++g) {
      const int64_t begin = a.granules.offsets[g], count = a.granules.offsets[g + 1] - begin;
      if (count > 0) add_granule<X>(a, begin, count);
      if (g + 1 < a.granules.count || a.granules.ends) end_granule(a.dweight_VD);
    }
  });
}

}  // namespace engine::ops::cuda
