#include "attention/causal_attention.h"

#include "attention/attention_tiles.h"

// Tiles of 64 queries and 64 keys, both beginning at multiples of 64 of the position, so that what happens to one
// query (the order of its sums, where its running maximum is updated) follows from its position alone. A key that
// a query may not see has weight zero, and whether zero is added or, on the diagonal, left out changes nothing; that a
// sum of zeros may differ in sign is made good at the end.
namespace attention::SIMD_TARGET {

namespace simd = engine::simd;
using simd::F16;
using simd::HeadRows;
using simd::kPanel;
using simd::kTile;

namespace {

constexpr int64_t kQueriesPerTask = 256;  // a multiple of kTile
const float kLowest = -__builtin_inff();

ALWAYS_INLINE int64_t smaller(int64_t a, int64_t b) {
  return a < b ? a : b;
}
ALWAYS_INLINE int64_t larger(int64_t a, int64_t b) {
  return a > b ? a : b;
}

// The keys [begin, end) of a tile that the query at `position` sees, relative to the tile's first key.
struct Visible {
  int64_t begin, end;
};
ALWAYS_INLINE Visible visible(int64_t position, int64_t document_start, int64_t first_key) {
  return {larger(document_start - first_key, 0), smaller(position + 1 - first_key, kTile)};
}

// -0 becomes 0.
ALWAYS_INLINE void settle_zeros(float* x, int64_t rows, int64_t step, int64_t C) {
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t c = 0; c < C; ++c) x[i * step + c] = x[i * step + c] + 0.0f;
  }
}

struct RunningSoftmax {
  float largest, sum;
};

// Lanes of keys [j, j + 16) that a query sees keep `x`, the others get `hidden`.
ALWAYS_INLINE F16 mask(F16 x, int64_t j, Visible keys, float hidden) {
  if (keys.begin <= j && j + 16 <= keys.end) return x;
  const F16 lanes = simd::to_float(simd::lane_numbers());
  const F16 begin = simd::broadcast(static_cast<float>(keys.begin - j));
  const F16 end = simd::broadcast(static_cast<float>(keys.end - j));
  return simd::select((lanes >= begin) & (lanes < end), x, simd::broadcast(hidden));
}

// Turns the scores of one query and tile into weights relative to the new maximum, and rescales its output row.
ALWAYS_INLINE void weigh(float* scores, Visible keys, float scale, RunningSoftmax& row, float* out, int64_t C) {
  if (keys.begin >= keys.end) {
    for (int64_t j = 0; j < kTile; ++j) scores[j] = 0.0f;
    return;
  }
  F16 largest = simd::broadcast(kLowest);
  for (int64_t j = 0; j < keys.end; j += 16) {
    const F16 seen = mask(simd::load(scores + j) * simd::broadcast(scale), j, keys, kLowest);
    simd::store(scores + j, seen);
    largest = simd::max(largest, seen);
  }
  const float tile_largest = simd::reduce_max(largest);
  const float new_largest = row.largest > tile_largest ? row.largest : tile_largest;
  F16 sums = simd::zero();
  for (int64_t j = 0; j < kTile; j += 16) {
    const bool none = j >= keys.end;
    const F16 weight = none ? simd::zero() : simd::exp(simd::load(scores + j) - simd::broadcast(new_largest));
    simd::store(scores + j, weight);
    sums = sums + weight;
  }
  const float rescale = simd::exp(row.largest - new_largest);  // 0 at the first tile
  row.sum = simd::fma(row.sum, rescale, simd::reduce_sum(sums));
  row.largest = new_largest;
  if (rescale == 1.0f) return;
  for (int64_t c = 0; c < C; ++c) out[c] = out[c] * rescale;
}

// Queries [begin, end) of sequence b and key/value head g, for all query heads that share it.
void forward_task(const CausalAttentionForward& a, int64_t b, int64_t g, int64_t begin, int64_t end) {
  const int64_t C = a.head_dim, heads = a.num_heads / a.num_kv_heads, wide = simd::round_up(C, kPanel);
  const int64_t first_row = b * a.query_len;
  const int32_t* starts = a.document_starts;
  int64_t first_start = starts == nullptr ? 0 : a.first_position + begin;
  for (int64_t s = begin; starts != nullptr && s < end; ++s) first_start = smaller(first_start, starts[first_row + s]);
  const int64_t first_tile = first_start / kTile, tiles = (a.first_position + end - 1) / kTile + 1 - first_tile;
  float* keys = static_cast<float*>(engine::thread_scratch((tiles * kTile * (C + wide) + kTile * (kTile + C)) * 4));
  float* values = keys + tiles * kTile * C;
  float* weights = values + tiles * kTile * wide;
  float* out = weights + kTile * kTile;
  auto rows_of = [&](const ConstTensor& t) {
    return HeadRows{t.f32() + (b * a.key_stride + first_tile * kTile) * t.row_stride + g * C, t.row_stride};
  };
  const HeadRows k = rows_of(a.k_TGC), v = rows_of(a.v_TGC);
  const int64_t num_keys = a.first_position + end - first_tile * kTile;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const int64_t at = tile * kTile, count = smaller(kTile, num_keys - at);
    simd::pack_transposed_tile({k.first + at * k.step, k.step}, count, C, keys + at * C);
    simd::pack_tile({v.first + at * v.step, v.step}, count, C, values + at * wide);
  }
  for (int64_t h = g * heads; h < (g + 1) * heads; ++h) {
    for (int64_t s = begin; s < end;) {
      // up to the next multiple of kTile of the position
      const int64_t position = a.first_position + s, rows = smaller(kTile - position % kTile, end - s);
      const float* q = a.q_THC.f32() + (first_row + s) * a.q_THC.row_stride + h * C;
      RunningSoftmax softmax[kTile];
      for (int64_t i = 0; i < rows; ++i) softmax[i] = {kLowest, 0.0f};
      for (int64_t i = 0; i < rows * C; ++i) out[i] = 0.0f;
      for (int64_t tile = 0; tile * kTile + first_tile * kTile <= position + rows - 1; ++tile) {
        const int64_t first_key = (first_tile + tile) * kTile;
        const int64_t count = smaller(kTile, position + rows - first_key);
        const int64_t lead = position - first_key;
        simd::tile_scores({q, a.q_THC.row_stride}, rows, lead, C, keys + tile * kTile * C, weights);
        for (int64_t i = 0; i < rows; ++i) {
          const int64_t start = starts == nullptr ? 0 : starts[first_row + s + i];
          weigh(weights + i * kTile, visible(position + i, start, first_key), a.scale, softmax[i], out + i * C, C);
        }
        simd::tile_update(simd::RowsA{weights, kTile}, rows, simd::KeysSeen{count, lead}, values + tile * kTile * wide,
                          C, out, C);
      }
      for (int64_t i = 0; i < rows; ++i) {
        float* o = a.o_THC.f32() + (first_row + s + i) * a.o_THC.row_stride + h * C;
        for (int64_t c = 0; c < C; ++c) o[c] = out[i * C + c] / softmax[i].sum + 0.0f;  // -0 becomes 0
        a.lse_TH.f32()[(first_row + s + i) * a.num_heads + h] = softmax[i].largest + simd::log(softmax[i].sum);
      }
      s += rows;
    }
  }
}

}  // namespace

void causal_attention_forward(const CausalAttentionForward& a) {
  // chunks of queries begin at multiples of kQueriesPerTask of the position
  const int64_t first_chunk = a.first_position / kQueriesPerTask;
  const int64_t chunks =
      a.query_len == 0 ? 0 : (a.first_position + a.query_len - 1) / kQueriesPerTask + 1 - first_chunk;
  engine::parallel_for(a.num_sequences * a.num_kv_heads * chunks, [&](int64_t task) {
    const int64_t chunk = chunks - 1 - task % chunks, pair = task / chunks;  // the longest first
    const int64_t begin = larger((first_chunk + chunk) * kQueriesPerTask - a.first_position, 0);
    const int64_t end = smaller((first_chunk + chunk + 1) * kQueriesPerTask - a.first_position, a.query_len);
    forward_task(a, pair / a.num_kv_heads, pair % a.num_kv_heads, begin, end);
  });
}

namespace {

// Scratch of a backward task; the first four for the whole sequence, the others for one tile of queries.
struct BackwardScratch {
  float *keys_transposed, *values_transposed, *keys;
  float *queries, *doutputs, *weights, *dscores, *deltas;
};

BackwardScratch backward_scratch(int64_t tiles, int64_t C, int64_t wide) {
  const int64_t rows = tiles * kTile;
  float* next = static_cast<float*>(
      engine::thread_scratch((rows * (2 * C + wide) + 2 * kTile * wide + 2 * kTile * kTile + kTile) * 4));
  auto take = [&](int64_t count) {
    float* part = next;
    next += count;
    return part;
  };
  BackwardScratch s;
  s.keys_transposed = take(rows * C);
  s.values_transposed = take(rows * C);
  s.keys = take(rows * wide);
  s.queries = take(kTile * wide);
  s.doutputs = take(kTile * wide);
  s.weights = take(kTile * kTile);
  s.dscores = take(kTile * kTile);
  s.deltas = take(kTile);
  return s;
}

HeadRows head_rows(const ConstTensor& t, int64_t row, int64_t column) {
  return {t.f32() + row * t.row_stride + column, t.row_stride};
}

ALWAYS_INLINE float dot(const float* x, const float* y, int64_t C) {
  F16 sums = simd::zero();
  int64_t c = 0;
  for (; c + 16 <= C; c += 16) sums = simd::fma(simd::load(x + c), simd::load(y + c), sums);
  if (c < C) sums = simd::fma(simd::load_first(x + c, C - c), simd::load_first(y + c, C - c), sums);
  return simd::reduce_sum(sums);
}

// weights: scores -> p; dscores: <do, v> -> ds, for one query and tile of keys.
ALWAYS_INLINE void score_gradient(float* weights, float* dscores, Visible keys, float scale, float lse, float delta) {
  int64_t j = 0;
  for (; j < keys.end; j += 16) {
    const F16 seen = mask(simd::load(weights + j), j, keys, kLowest);
    const F16 p = simd::exp(seen * simd::broadcast(scale) - simd::broadcast(lse));
    simd::store(weights + j, p);
    simd::store(dscores + j, p * (simd::load(dscores + j) - simd::broadcast(delta)) * simd::broadcast(scale));
  }
  for (; j < kTile; ++j) weights[j] = dscores[j] = 0.0f;
}

// Query tile `tile` of head h against all keys it sees.
void backward_tile(const CausalAttentionBackward& a, const BackwardScratch& s, int64_t b, int64_t g, int64_t h,
                   int64_t tile) {
  const int64_t C = a.head_dim, wide = simd::round_up(C, kPanel);
  const int64_t first_row = b * a.query_len, position = tile * kTile, row = first_row + position;
  const int64_t rows = smaller(kTile, a.query_len - position);
  const HeadRows q = head_rows(a.q_THC, row, h * C), dout = head_rows(a.do_THC, row, h * C);
  const HeadRows out = head_rows(a.o_THC, row, h * C);
  simd::pack_tile(q, rows, C, s.queries);
  simd::pack_tile(dout, rows, C, s.doutputs);
  float* dq = a.dq_THC.f32() + row * a.dq_THC.row_stride + h * C;
  int64_t first_start = position;
  for (int64_t i = 0; i < rows; ++i) {
    s.deltas[i] = dot(dout.first + i * dout.step, out.first + i * out.step, C);
    first_start = smaller(first_start, a.document_starts == nullptr ? 0 : a.document_starts[row + i]);
    for (int64_t c = 0; c < C; ++c) dq[i * a.dq_THC.row_stride + c] = 0.0f;
  }
  for (int64_t key_tile = first_start / kTile; key_tile <= tile; ++key_tile) {
    const int64_t first_key = key_tile * kTile, count = smaller(kTile, a.query_len - first_key);
    const int64_t lead = position - first_key;
    simd::tile_scores(q, rows, lead, C, s.keys_transposed + first_key * C, s.weights);
    simd::tile_scores(dout, rows, lead, C, s.values_transposed + first_key * C, s.dscores);
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t start = a.document_starts == nullptr ? 0 : a.document_starts[row + i];
      score_gradient(s.weights + i * kTile, s.dscores + i * kTile, visible(position + i, start, first_key), a.scale,
                     a.lse_TH.f32()[(row + i) * a.num_heads + h], s.deltas[i]);
    }
    const int64_t key_row = first_row + first_key;
    const simd::QueriesSeeing queries{rows, lead};
    simd::tile_update(simd::ColumnsA{s.weights, kTile}, count, queries, s.doutputs, C,
                      a.dv_TGC.f32() + key_row * a.dv_TGC.row_stride + g * C, a.dv_TGC.row_stride);
    simd::tile_update(simd::ColumnsA{s.dscores, kTile}, count, queries, s.queries, C,
                      a.dk_TGC.f32() + key_row * a.dk_TGC.row_stride + g * C, a.dk_TGC.row_stride);
    simd::tile_update(simd::RowsA{s.dscores, kTile}, rows, simd::KeysSeen{count, lead}, s.keys + first_key * wide, C,
                      dq, a.dq_THC.row_stride);
  }
  settle_zeros(dq, rows, a.dq_THC.row_stride, C);
}

// Key/value head g of sequence b: all query heads that share it, in order.
void backward_task(const CausalAttentionBackward& a, int64_t b, int64_t g) {
  const int64_t C = a.head_dim, heads = a.num_heads / a.num_kv_heads, wide = simd::round_up(C, kPanel);
  const int64_t tiles = (a.query_len + kTile - 1) / kTile, first_row = b * a.query_len;
  const BackwardScratch s = backward_scratch(tiles, C, wide);
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const int64_t at = tile * kTile, count = smaller(kTile, a.query_len - at);
    const HeadRows k = head_rows(a.k_TGC, first_row + at, g * C), v = head_rows(a.v_TGC, first_row + at, g * C);
    simd::pack_transposed_tile(k, count, C, s.keys_transposed + at * C);
    simd::pack_transposed_tile(v, count, C, s.values_transposed + at * C);
    simd::pack_tile(k, count, C, s.keys + at * wide);
  }
  for (int64_t t = first_row; t < first_row + a.query_len; ++t) {
    for (int64_t c = 0; c < C; ++c) {
      a.dk_TGC.f32()[t * a.dk_TGC.row_stride + g * C + c] = 0.0f;
      a.dv_TGC.f32()[t * a.dv_TGC.row_stride + g * C + c] = 0.0f;
    }
  }
  for (int64_t h = g * heads; h < (g + 1) * heads; ++h) {
    for (int64_t tile = 0; tile < tiles; ++tile) backward_tile(a, s, b, g, h, tile);
  }
  settle_zeros(a.dk_TGC.f32() + first_row * a.dk_TGC.row_stride + g * C, a.query_len, a.dk_TGC.row_stride, C);
  settle_zeros(a.dv_TGC.f32() + first_row * a.dv_TGC.row_stride + g * C, a.query_len, a.dv_TGC.row_stride, C);
}

}  // namespace

void causal_attention_backward(const CausalAttentionBackward& a) {
  engine::parallel_for(a.num_sequences * a.num_kv_heads,
                       [&](int64_t task) { backward_task(a, task / a.num_kv_heads, task % a.num_kv_heads); });
}

}  // namespace attention::SIMD_TARGET
