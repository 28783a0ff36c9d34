// Operands of one head in the layout of the product kernel; for kernel files only.
#pragma once

#include "engine/core/thread_pool.h"
#include "engine/ops/gemm_kernel.h"

namespace engine::simd {
inline namespace SIMD_TARGET {

inline constexpr int64_t kTile = 64;  // queries and keys of one tile; tiles begin at multiples of it
static_assert(kTile % kPanel == 0);

ALWAYS_INLINE int64_t round_up(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

// Rows of one head: row j begins at first + j * step and has C elements.
struct HeadRows {
  const float* first;
  int64_t step;
};

// [kTile rows][C] of a matrix, transposed: the element k of row j goes to panel j / kPanel, [k * kPanel + j % kPanel].
// Rows from `rows` on are zero.
inline void pack_transposed_tile(HeadRows from, int64_t rows, int64_t C, float* panels) {
  for (int64_t j = 0; j < kTile; j += kPanel, panels += C * kPanel) {
    pack_transposed_panel(from.first + j * from.step, from.step, rows - j, C, panels);
  }
}

// [kTile rows][C] in panels of columns: panel p holds columns p * kPanel on, row by row.
inline void pack_tile(HeadRows from, int64_t rows, int64_t C, float* panels) {
  for (int64_t c = 0; c < C; c += kPanel) {
    pack_panel(from.first + c, from.step, rows, C - c < kPanel ? C - c : kPanel, panels + c * kTile);
  }
}

// A query sees keys up to its own position: query i of its tile the keys up to i + lead of theirs, where lead is the
// distance between the first ones. So on the diagonal about half of a tile is left out of the products:

// the keys [0, K) that queries [i, i + n) see, the last of them most of all,
struct KeysSeen {
  int64_t K, lead;
  ALWAYS_INLINE int64_t begin(int64_t) const { return 0; }
  ALWAYS_INLINE int64_t end(int64_t i, int64_t n) const { return i + n + lead < K ? i + n + lead : K; }
};
// and the queries [0, K) that see keys [i, i + n).
struct QueriesSeeing {
  int64_t K, lead;
  ALWAYS_INLINE int64_t begin(int64_t i) const { return i < lead ? 0 : i - lead < K ? i - lead : K; }
  ALWAYS_INLINE int64_t end(int64_t, int64_t) const { return K; }
};

// out[i, j] = sum_c q[i, c] * b[j, c] for a tile of queries i and keys j; b is packed transposed. Panels of keys that a
// query does not see are left as they are.
inline void tile_scores(HeadRows q, int64_t rows, int64_t lead, int64_t C, const float* b, float* out) {
  for (int64_t j = 0; j < kTile; j += kPanel) {
    const int64_t i = j > lead ? j - lead : 0;  // the first query that sees one of these keys
    if (i >= rows) return;
    product_panel(RowsA{q.first + i * q.step, q.step}, b + j * C, WholeK{C}, out + i * kTile + j, kTile, rows - i,
                  kPanel, true, {b + (j + kPanel) * C});
  }
}

// out[i, c] += sum_j a(i, j) * b[j, c] for c < C and the j of `range`; b is packed in panels of columns, a as the
// product kernel takes it.
template <class A, class RangeOfK>
inline void tile_update(A a, int64_t rows, RangeOfK range, const float* b, int64_t C, float* out, int64_t out_step) {
  for (int64_t c = 0; c < C; c += kPanel) {
    product_panel(a, b + c * kTile, range, out + c, out_step, rows, C - c < kPanel ? C - c : kPanel, false,
                  {b + (c + kPanel) * kTile});
  }
}

}  // namespace SIMD_TARGET
}  // namespace engine::simd
