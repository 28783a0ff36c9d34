#include "attention/causal_attention.h"

#include "attention/causal_attention_cudnn.h"
#include "engine/core/cuda_reduce.cuh"

// Tiles of 32 queries and 32 keys in shared memory; tiles of keys begin at multiples of 32 of the position, so what
// happens to one query follows from its position alone. A key that a query may not see has weight zero.
// Forward and dq: one block per tile of queries and query head. dk and dv: one block per tile of keys and key/value
// head, over the query heads that share it and the tiles of queries, in order; so no sum needs an atomic.
namespace attention::cuda {
namespace {

using engine::blocks_for;
using engine::data_of;
using engine::device_stream;
using engine::from_float;
using engine::launch;
using engine::Max;
using engine::Sum;
using engine::to_float;
using engine::warp_reduce;

constexpr int kTile = 32;
constexpr int kScoreStride = kTile + 1;
constexpr int kThreads = 256, kWarps = kThreads / 32;

__device__ __forceinline__ int thread() {
  return static_cast<int>(threadIdx.x);
}

// A matrix of [rows, heads * C] elements.
template <class X>
struct Rows {
  X* data;
  int64_t stride;
  __device__ X* head(int64_t row, int64_t h, int C) const { return data + row * stride + h * C; }
};
template <class X>
Rows<X> rows_of(const engine::Tensor& t) {
  return {data_of<X>(t), t.row_stride};
}
template <class X>
Rows<const X> rows_of(const engine::ConstTensor& t) {
  return {data_of<X>(t), t.row_stride};
}

struct Shape {
  int heads, kv_heads, C;
  int64_t query_len, first_position, key_stride;
  float scale;
  const int32_t* document_starts;
};

// [kTile][C] of one head, one element more per row so that columns lie in different banks; zero beyond `count` rows.
template <class X>
__device__ void load_tile(float* tile, const Rows<const X>& from, int64_t row, int count, int64_t h, int C) {
  for (int i = thread(); i < kTile * C; i += kThreads) {
    tile[i / C * (C + 1) + i % C] = i / C < count ? to_float(from.head(row + i / C, h, C)[i % C]) : 0.0f;
  }
}

__device__ float dot(const float* a, const float* b, int C) {
  float sum = 0;
  for (int c = 0; c < C; ++c) sum += a[c] * b[c];
  return sum;
}

// A tile of queries: which rows, and which keys each may see.
struct Queries {
  int64_t first_row, position;  // of its first query
  int count;
  const int* starts;  // shared, [kTile]
  __device__ bool sees(int i, int64_t key) const { return i < count && key >= starts[i] && key <= position + i; }
};

// All threads; the block's barrier is the caller's next one.
__device__ void load_starts(int* starts, const Shape& shape, int64_t first_row, int count) {
  if (thread() >= kTile) return;
  starts[thread()] =
      thread() < count && shape.document_starts != nullptr ? shape.document_starts[first_row + thread()] : 0;
}
__device__ int64_t first_start(const Queries& q) {
  int64_t start = q.starts[0];
  for (int i = 1; i < q.count; ++i) start = q.starts[i] < start ? q.starts[i] : start;
  return start;
}
__device__ int tile_rows(int64_t left) {
  return left < kTile ? static_cast<int>(left) : kTile;
}

// The running softmax of each query of the tile, in shared memory.
struct Softmax {
  float *largest, *sum, *rescale;
};

// Scores become weights relative to the new maximum; a warp per query, a lane per key.
__device__ void weigh(float* scores, const Softmax& softmax, const Queries& q, int64_t first_key, float scale) {
  const int lane = thread() % 32;
  for (int i = thread() / 32; i < kTile; i += kWarps) {
    const bool visible = q.sees(i, first_key + lane);
    const float score = visible ? scores[i * kScoreStride + lane] * scale : Max::kNeutral;
    const float tile_largest = warp_reduce(score, Max{}), before = softmax.largest[i];
    const float largest = fmaxf(before, tile_largest);
    const float weight = visible ? expf(score - largest) : 0.0f;
    const float sum = warp_reduce(weight, Sum{});
    scores[i * kScoreStride + lane] = weight;
    __syncwarp();  // all lanes have read `largest`
    if (lane != 0) continue;
    const float rescale = before == largest ? 1.0f : expf(before - largest);  // nothing visible yet: -inf both
    softmax.rescale[i] = rescale;
    softmax.sum[i] = softmax.sum[i] * rescale + sum;
    softmax.largest[i] = largest;
  }
}

template <class X>
__global__ void forward_kernel(Rows<X> o, float* lse, Rows<const X> q, Rows<const X> k, Rows<const X> v, Shape shape) {
  EXTERN_SHARED(float, memory);
  SHARED(int, starts, [kTile]);
  SHARED(float, statistics, [3 * kTile]);
  const int C = shape.C, tile_floats = kTile * (C + 1);
  float *queries = memory, *keys = queries + tile_floats, *values = keys + tile_floats, *out = values + tile_floats;
  float* scores = out + tile_floats;
  const Softmax softmax{statistics, statistics + kTile, statistics + 2 * kTile};
  const int64_t h = blockIdx.y % shape.heads, b = blockIdx.y / shape.heads, g = h / (shape.heads / shape.kv_heads);
  const int64_t first = blockIdx.x * kTile, first_row = b * shape.query_len + first;
  const Queries tile{first_row, shape.first_position + first, tile_rows(shape.query_len - first), starts};
  load_tile(queries, q, first_row, tile.count, h, C);
  load_starts(starts, shape, first_row, tile.count);
  for (int i = thread(); i < tile_floats; i += kThreads) out[i] = 0;
  if (thread() < kTile) softmax.largest[thread()] = Max::kNeutral, softmax.sum[thread()] = 0;
  __syncthreads();
  const int64_t end = tile.position + tile.count;  // of the keys
  for (int64_t key = first_start(tile) / kTile * kTile; key < end; key += kTile) {
    const int count = tile_rows(end - key);
    load_tile(keys, k, b * shape.key_stride + key, count, g, C);
    load_tile(values, v, b * shape.key_stride + key, count, g, C);
    __syncthreads();
    for (int i = thread(); i < kTile * kTile; i += kThreads) {
      scores[i / kTile * kScoreStride + i % kTile] = dot(queries + i / kTile * (C + 1), keys + i % kTile * (C + 1), C);
    }
    __syncthreads();
    weigh(scores, softmax, tile, key, shape.scale);
    __syncthreads();
    for (int i = thread(); i < kTile * C; i += kThreads) {
      const int row = i / C, c = i % C;
      float sum = out[row * (C + 1) + c] * softmax.rescale[row];
      for (int j = 0; j < kTile; ++j) sum += scores[row * kScoreStride + j] * values[j * (C + 1) + c];
      out[row * (C + 1) + c] = sum;
    }
    __syncthreads();
  }
  for (int i = thread(); i < tile.count * C; i += kThreads) {
    o.head(first_row + i / C, h, C)[i % C] = from_float<X>(out[i / C * (C + 1) + i % C] / softmax.sum[i / C]);
  }
  if (thread() < tile.count) {
    lse[(first_row + thread()) * shape.heads + h] = softmax.largest[thread()] + logf(softmax.sum[thread()]);
  }
}

// delta[t, h] = <do[t, h], o[t, h]>, a warp per row and head.
template <class X>
__global__ void delta_kernel(float* delta, Rows<const X> dout, Rows<const X> o, int64_t count, int heads, int C) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kWarps + thread() / 32;
  if (i >= count) return;  // the whole warp
  const X *a = dout.head(i / heads, i % heads, C), *b = o.head(i / heads, i % heads, C);
  float sum = 0;
  for (int c = thread() % 32; c < C; c += 32) sum += to_float(a[c]) * to_float(b[c]);
  sum = warp_reduce(sum, Sum{});
  if (thread() % 32 == 0) delta[i] = sum;
}

// Tiles of the backward pass in shared memory: [kTile][C + 1] each, then weights and dscores.
struct Tiles {
  float *queries, *doutputs, *keys, *values, *first_sums, *second_sums, *weights, *dscores;
  __device__ Tiles(float* memory, int C) {
    const int size = kTile * (C + 1);
    queries = memory;
    doutputs = queries + size;
    keys = doutputs + size;
    values = keys + size;
    weights = values + size;
    dscores = weights + kTile * kScoreStride;
    first_sums = dscores + kTile * kScoreStride;
    second_sums = first_sums + size;
  }
};
int64_t backward_shared_bytes(int C, int sums) {
  return 4 * ((4 + sums) * kTile * (C + 1) + 2 * kTile * kScoreStride);
}

// weights = p and dscores = ds of a tile; all threads, between barriers.
__device__ void score_gradient(const Tiles& tiles, const Queries& q, int64_t first_key, int64_t h, const float* lse,
                               const float* delta, const Shape& shape) {
  const int C = shape.C;
  for (int n = thread(); n < kTile * kTile; n += kThreads) {
    const int i = n / kTile, j = n % kTile;
    float p = 0, ds = 0;
    if (q.sees(i, first_key + j)) {
      const int64_t at = (q.first_row + i) * shape.heads + h;
      p = expf(dot(tiles.queries + i * (C + 1), tiles.keys + j * (C + 1), C) * shape.scale - lse[at]);
      ds = p * (dot(tiles.doutputs + i * (C + 1), tiles.values + j * (C + 1), C) - delta[at]) * shape.scale;
    }
    tiles.weights[i * kScoreStride + j] = p;
    tiles.dscores[i * kScoreStride + j] = ds;
  }
}

// What the backward kernels read.
template <class X>
struct Inputs {
  Rows<const X> dout, q, k, v;
  const float *lse, *delta;
};

template <class X>
__global__ void query_gradient_kernel(Rows<X> dq, Inputs<X> in, Shape shape) {
  EXTERN_SHARED(float, memory);
  SHARED(int, starts, [kTile]);
  const int C = shape.C;
  const Tiles tiles(memory, C);
  const int64_t h = blockIdx.y % shape.heads, b = blockIdx.y / shape.heads, g = h / (shape.heads / shape.kv_heads);
  const int64_t first = blockIdx.x * kTile, first_row = b * shape.query_len + first;
  const Queries tile{first_row, first, tile_rows(shape.query_len - first), starts};
  load_tile(tiles.queries, in.q, first_row, tile.count, h, C);
  load_tile(tiles.doutputs, in.dout, first_row, tile.count, h, C);
  load_starts(starts, shape, first_row, tile.count);
  for (int i = thread(); i < kTile * (C + 1); i += kThreads) tiles.first_sums[i] = 0;
  __syncthreads();
  for (int64_t key = first_start(tile) / kTile * kTile; key <= first; key += kTile) {
    const int count = tile_rows(shape.query_len - key);
    load_tile(tiles.keys, in.k, b * shape.query_len + key, count, g, C);
    load_tile(tiles.values, in.v, b * shape.query_len + key, count, g, C);
    __syncthreads();
    score_gradient(tiles, tile, key, h, in.lse, in.delta, shape);
    __syncthreads();
    for (int i = thread(); i < kTile * C; i += kThreads) {
      const int row = i / C, c = i % C;
      float sum = tiles.first_sums[row * (C + 1) + c];
      for (int j = 0; j < kTile; ++j) sum += tiles.dscores[row * kScoreStride + j] * tiles.keys[j * (C + 1) + c];
      tiles.first_sums[row * (C + 1) + c] = sum;
    }
    __syncthreads();
  }
  for (int i = thread(); i < tile.count * C; i += kThreads) {
    dq.head(first_row + i / C, h, C)[i % C] = from_float<X>(tiles.first_sums[i / C * (C + 1) + i % C]);
  }
}

template <class X>
__global__ void key_gradient_kernel(Rows<X> dk, Rows<X> dv, Inputs<X> in, Shape shape) {
  EXTERN_SHARED(float, memory);
  SHARED(int, starts, [kTile]);
  const int C = shape.C, group = shape.heads / shape.kv_heads;
  const Tiles tiles(memory, C);
  const int64_t g = blockIdx.y % shape.kv_heads, b = blockIdx.y / shape.kv_heads, sequence = b * shape.query_len;
  const int64_t key = blockIdx.x * kTile;
  const int count = tile_rows(shape.query_len - key);
  load_tile(tiles.keys, in.k, sequence + key, count, g, C);
  load_tile(tiles.values, in.v, sequence + key, count, g, C);
  for (int i = thread(); i < kTile * (C + 1); i += kThreads) tiles.first_sums[i] = 0, tiles.second_sums[i] = 0;
  for (int64_t h = g * group; h < (g + 1) * group; ++h) {
    for (int64_t first = key; first < shape.query_len; first += kTile) {
      const Queries tile{sequence + first, first, tile_rows(shape.query_len - first), starts};
      load_starts(starts, shape, tile.first_row, tile.count);
      __syncthreads();
      const bool visible = first_start(tile) < key + count;  // for all threads alike
      if (visible) {
        load_tile(tiles.queries, in.q, tile.first_row, tile.count, h, C);
        load_tile(tiles.doutputs, in.dout, tile.first_row, tile.count, h, C);
      }
      __syncthreads();
      if (visible) score_gradient(tiles, tile, key, h, in.lse, in.delta, shape);
      __syncthreads();
      for (int n = thread(); visible && n < kTile * C; n += kThreads) {
        const int j = n / C, c = n % C;
        float dk_sum = tiles.first_sums[j * (C + 1) + c], dv_sum = tiles.second_sums[j * (C + 1) + c];
        for (int i = 0; i < kTile; ++i) {
          dk_sum += tiles.dscores[i * kScoreStride + j] * tiles.queries[i * (C + 1) + c];
          dv_sum += tiles.weights[i * kScoreStride + j] * tiles.doutputs[i * (C + 1) + c];
        }
        tiles.first_sums[j * (C + 1) + c] = dk_sum;
        tiles.second_sums[j * (C + 1) + c] = dv_sum;
      }
      __syncthreads();
    }
  }
  for (int i = thread(); i < count * C; i += kThreads) {
    dk.head(sequence + key + i / C, g, C)[i % C] = from_float<X>(tiles.first_sums[i / C * (C + 1) + i % C]);
    dv.head(sequence + key + i / C, g, C)[i % C] = from_float<X>(tiles.second_sums[i / C * (C + 1) + i % C]);
  }
}

__global__ void lse_by_head_kernel(float* to, const float* lse, int64_t count, int64_t heads, int64_t length,
                                   int64_t row_stride) {
  const int64_t i = engine::global_thread();
  if (i >= count) return;
  const int64_t s = i % length, h = i / length % heads, b = i / length / heads;
  to[i] = lse[(b * length + s) * row_stride + h];
}

// Blocks of tiles times heads of all sequences.
dim3 grid_of(int64_t rows, int64_t heads) {
  ENSURE(heads <= 65535, heads, " heads of all sequences in one call are too many");
  return dim3(blocks_for(rows, kTile), static_cast<unsigned>(heads));
}

}  // namespace

void lse_by_head(float* to, const float* lse, int64_t sequences, int64_t heads, int64_t length, int64_t row_stride) {
  const int64_t count = sequences * heads * length;
  launch(lse_by_head_kernel, blocks_for(count, kThreads), kThreads, 0, device_stream(), to, lse, count, heads, length,
         row_stride);
}

void causal_attention_forward(const CausalAttentionForward& a) {
  if (cudnn_attention_forward(a)) return;
  const Shape shape{static_cast<int>(a.num_heads),
                    static_cast<int>(a.num_kv_heads),
                    static_cast<int>(a.head_dim),
                    a.query_len,
                    a.first_position,
                    a.key_stride,
                    a.scale,
                    a.document_starts};
  const int64_t shared_bytes = 4 * (4 * kTile * (a.head_dim + 1) + kTile * kScoreStride);
  engine::with_storage({a.q_THC, a.o_THC, a.k_TGC, a.v_TGC}, [&]<class X>(X) {
    launch(forward_kernel<X>, grid_of(a.query_len, a.num_sequences * a.num_heads), kThreads, shared_bytes,
           device_stream(), rows_of<X>(a.o_THC), a.lse_TH.f32(), rows_of<X>(a.q_THC), rows_of<X>(a.k_TGC),
           rows_of<X>(a.v_TGC), shape);
  });
}

void causal_attention_backward(const CausalAttentionBackward& a) {
  if (cudnn_attention_backward(a)) return;
  const Shape shape{static_cast<int>(a.num_heads),
                    static_cast<int>(a.num_kv_heads),
                    static_cast<int>(a.head_dim),
                    a.query_len,
                    0,
                    a.query_len,
                    a.scale,
                    a.document_starts};
  const int64_t rows = a.do_THC.rows() * a.num_heads;
  engine::with_storage({a.do_THC, a.q_THC, a.k_TGC, a.v_TGC, a.o_THC, a.dq_THC, a.dk_TGC, a.dv_TGC}, [&]<class X>(X) {
    auto* delta = static_cast<float*>(engine::device_scratch(rows * 4));
    launch(delta_kernel<X>, blocks_for(rows, kWarps), kThreads, 0, device_stream(), delta, rows_of<X>(a.do_THC),
           rows_of<X>(a.o_THC), rows, shape.heads, shape.C);
    const Inputs<X> inputs{rows_of<X>(a.do_THC), rows_of<X>(a.q_THC), rows_of<X>(a.k_TGC),
                           rows_of<X>(a.v_TGC),  a.lse_TH.f32(),      delta};
    launch(query_gradient_kernel<X>, grid_of(a.query_len, a.num_sequences * a.num_heads), kThreads,
           backward_shared_bytes(shape.C, 1), device_stream(), rows_of<X>(a.dq_THC), inputs, shape);
    launch(key_gradient_kernel<X>, grid_of(a.query_len, a.num_sequences * a.num_kv_heads), kThreads,
           backward_shared_bytes(shape.C, 2), device_stream(), rows_of<X>(a.dk_TGC), rows_of<X>(a.dv_TGC), inputs,
           shape);
  });
}

}  // namespace attention::cuda
