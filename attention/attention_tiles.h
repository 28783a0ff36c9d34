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
  for (int64_t j = 0; j < kTile; ++j) {
    float* to = panels + j / kPanel * C * kPanel + j % kPanel;
    const float* row = from.first + j * from.step;
    for (int64_t c = 0; c < C; ++c) to[c * kPanel] = j < rows ? row[c] : 0.0f;
  }
}

// [kTile rows][C] in panels of columns: panel p holds columns p * kPanel on, row by row.
inline void pack_tile(HeadRows from, int64_t rows, int64_t C, float* panels) {
  for (int64_t c = 0; c < C; c += kPanel) {
    pack_panel(from.first + c, from.step, rows, C - c < kPanel ? C - c : kPanel, panels + c * kTile);
  }
}

// out[i, j] = sum_c a[i, c] * b[j, c] for a tile of rows i and `columns` keys j; b is packed transposed.
inline void tile_scores(HeadRows a, int64_t rows, int64_t C, const float* b, int64_t columns, float* out) {
  for (int64_t j = 0; j < columns; j += kPanel) {
    product_panel(RowsA{a.first, a.step}, b + j * C, C, out + j, kTile, rows,
                  columns - j < kPanel ? columns - j : kPanel, true, {b + (j + kPanel) * C});
  }
}

// out[i, c] += sum_j a(i, j) * b[j, c] for c < C; b is packed in panels of columns, a as the product kernel takes it.
template <class A>
inline void tile_update(A a, int64_t rows, int64_t K, const float* b, int64_t C, float* out, int64_t out_step) {
  for (int64_t c = 0; c < C; c += kPanel) {
    product_panel(a, b + c * kTile, K, out + c, out_step, rows, C - c < kPanel ? C - c : kPanel, false,
                  {b + (c + kPanel) * kTile});
  }
}

}  // namespace SIMD_TARGET
}  // namespace engine::simd
