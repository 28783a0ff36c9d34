// One task's share of the three products, used for one weight and for many; for kernel files only.
#pragma once

#include "engine/core/thread_pool.h"
#include "engine/ops/gemm_kernel.h"
#include "engine/ops/gradient_chain.h"

namespace engine::simd {
inline namespace SIMD_TARGET {

inline constexpr int64_t kColumnsPerTask = 8 * kPanel;  // of y and dx
ALWAYS_INLINE int64_t ceil_divide(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}
ALWAYS_INLINE int64_t smaller(int64_t a, int64_t b) {
  return a < b ? a : b;
}
ALWAYS_INLINE int64_t larger(int64_t a, int64_t b) {
  return a > b ? a : b;
}

// Rows in tasks of whole tiles, equal but for one tile.
struct RowTasks {
  int64_t rows, tiles, tasks;
  ALWAYS_INLINE int64_t begin(int64_t task) const { return smaller(rows, task * tiles / tasks * kTileRows); }
};
// `even`: in an even number of tasks, so that two threads end together.
ALWAYS_INLINE RowTasks row_tasks(int64_t rows, int64_t most_tiles, bool even) {
  const int64_t tiles = ceil_divide(rows, kTileRows), tasks = ceil_divide(tiles, most_tiles);
  return {rows, tiles, smaller(tiles, even ? tasks + tasks % 2 : tasks)};
}
// Of y or dx: rows that stay in the second cache, but no more than a sixteenth of the op, whose tasks are taken in
// turn.
ALWAYS_INLINE int64_t product_tiles(int64_t tiles_of_op) {
  return smaller(22, larger(4, tiles_of_op / 16));
}
// Of dweight [N, D]: so few that the sums stay in the second cache.
ALWAYS_INLINE RowTasks gradient_tasks(int64_t N, int64_t D) {
  constexpr int64_t kChainElements = 96 << 10;
  return row_tasks(N, smaller(16, larger(1, kChainElements / (kTileRows * D))), true);
}

// B [K, N] of a product in panels of its columns: as they are, or cut from rows into memory of the task in their turn.
struct PackedPanels {
  const float* first;
  int64_t K;
  ALWAYS_INLINE NextPanel at(int64_t k, int64_t n) const { return {first + n * K + k * kPanel}; }
  ALWAYS_INLINE const float* get(int64_t k, int64_t n, int64_t, int64_t, float*) const { return at(k, n).first; }
};
struct PanelsOfRows {
  const float* first;
  int64_t step;
  ALWAYS_INLINE NextPanel at(int64_t k, int64_t n) const { return {first + k * step + n, step}; }
  ALWAYS_INLINE const float* get(int64_t k, int64_t n, int64_t rows, int64_t columns, float* panel) const {
    pack_panel(at(k, n).first, step, rows, columns, panel);
    return panel;
  }
};

// y[rows, columns begin..end) = start + x * B, where start is y itself, the bias, or zero. Forward B is the transposed
// weight, packed once a step; for the input gradient it is the weight as it is.
template <class Panels>
struct ProductTask {
  const float* x;
  int64_t x_step, K;
  Panels panels;
  const float* bias;  // null: none
  bool accumulate;    // not with a bias
  float* y;
  int64_t y_step, rows, column_begin, column_end;
};

// Rows of x a multiple of 4 KiB apart share the same few lines of the first cache, fewer than a tile has rows.
template <class Panels>
ALWAYS_INLINE bool rows_collide(const ProductTask<Panels>& task) {
  return task.x_step % 1024 == 0;
}
inline constexpr int64_t kCopyStep = kBlock + 16;
// Columns [k, k + K) of x, copied to memory where rows lie a line more than a block apart.
template <class Panels>
inline RowsA copy_rows(const ProductTask<Panels>& task, int64_t k, int64_t K, float* memory) {
  for (int64_t i = 0; i < task.rows; ++i) {
    const float* from = task.x + i * task.x_step + k;
    float* to = memory + i * kCopyStep;
    for (int64_t j = 0; j < K; ++j) to[j] = from[j];
  }
  return {memory, kCopyStep};
}

template <class Panels>
inline void run(const ProductTask<Panels>& task) {
  const bool copies = rows_collide(task);
  float* panel = static_cast<float*>(thread_scratch((kBlock * kPanel + (copies ? task.rows * kCopyStep : 0)) * 4));
  float* rows = panel + kBlock * kPanel;
  if (task.bias != nullptr) {
    for (int64_t i = 0; i < task.rows; ++i) {
      for (int64_t n = task.column_begin; n < task.column_end; ++n) task.y[i * task.y_step + n] = task.bias[n];
    }
  }
  const bool from_zero = task.bias == nullptr && !task.accumulate;
  for (int64_t k = 0; k < task.K; k += kBlock) {
    const int64_t K = smaller(kBlock, task.K - k);
    const RowsA x = copies ? copy_rows(task, k, K, rows) : RowsA{task.x + k, task.x_step};
    for (int64_t n = task.column_begin; n < task.column_end; n += kPanel) {
      const int64_t columns = smaller(kPanel, task.column_end - n);
      product_panel(x, task.panels.get(k, n, K, columns, panel), WholeK{K}, task.y + n, task.y_step, task.rows, columns,
                    from_zero && k == 0, task.panels.at(k, n + kPanel));
    }
  }
}

// Rows [row_begin, row_end) of dweight [N, D]: dweight += dy^T x.
//
// The values p of a granule stay in `chain`, memory of the task in panels of columns, while its tokens go by; then they
// are added to the exact sums row by row. The sums of these rows, contiguous in memory, are fetched while the products
// are computed. Only a granule that continues from or into another pass goes through the weight's own chain.
struct WeightGradientTask {
  const WeightGradient* dweight;
  PanelsOfRows x;   // [R, D]
  const float* dy;  // [R, N]
  int64_t dy_step, D;
  int64_t row_begin, row_end;
  float *chain = nullptr, *x_panel = nullptr, *dy_strips = nullptr;  // set by run()

  ALWAYS_INLINE int64_t tiles() const { return ceil_divide(row_end - row_begin, kTileRows); }
  ALWAYS_INLINE int64_t chain_elements() const { return tiles() * kTileRows * ceil_divide(D, kPanel) * kPanel; }
  ALWAYS_INLINE float* panel(int64_t column) const { return chain + column * tiles() * kTileRows; }
  // Calls part(values in the panel, index of the first in the weight, how many) for the rows, piece by piece.
  template <class Part>
  ALWAYS_INLINE void for_each_piece(Part part) const {
    for (int64_t i = 0; i < row_end - row_begin; ++i) {
      for (int64_t column = 0; column < D; column += kPanel) {
        part(panel(column) + i * kPanel, (row_begin + i) * D + column, smaller(kPanel, D - column));
      }
    }
  }
};

// dy of K tokens in strips of kTileRows columns, token after token: strip s at s * K * kTileRows.
inline void pack_dy(const WeightGradientTask& task, int64_t token, int64_t K) {
  const int64_t rows = task.row_end - task.row_begin, rest = rows % kTileRows;
  for (int64_t k = 0; k < K; ++k) {
    const float* from = task.dy + (token + k) * task.dy_step + task.row_begin;
    float* to = task.dy_strips + k * kTileRows;
    for (int64_t tile = 0; tile < rows / kTileRows; ++tile, from += kTileRows, to += K * kTileRows) {
      __builtin_memcpy(to, from, kTileRows * sizeof(float));
    }
    for (int64_t i = 0; rest != 0 && i < kTileRows; ++i) to[i] = i < rest ? from[i] : 0.0f;
  }
}

// Tokens [begin, end) of one granule. Of the tiles every second one fetches the next panel of x, the others sums.
inline void add_products(const WeightGradientTask& task, int64_t begin, int64_t end, bool from_zero) {
  const double* sum = task.dweight->sum == nullptr ? nullptr : task.dweight->sum + task.row_begin * task.D;
  Prefetch sums{reinterpret_cast<const float*>(sum), kPanel, 1};
  for (int64_t t = begin; t < end; t += kBlock) {
    const int64_t K = smaller(kBlock, end - t), fetches = kTileRows * 2;  // f64: two for each row of a tile
    pack_dy(task, t, K);
    sums.interval = smaller(16, larger(1, K / (2 * fetches)));
    for (int64_t column = 0; column < task.D; column += kPanel) {
      const float* x = task.x.get(t, column, K, smaller(kPanel, task.D - column), task.x_panel);
      Prefetch panels = prefetch_panel(task.x.at(t, column + kPanel), task.tiles() / 2);
      for (int64_t tile = 0; tile < task.tiles(); ++tile) {
        Prefetch& prefetch = tile % 2 == 1 && sum != nullptr ? sums : panels;
        product_tile<kTileRows>(ColumnsA{task.dy_strips + tile * K * kTileRows, kTileRows}, x, K,
                                task.panel(column) + tile * kTileRows * kPanel, kPanel, kPanel, from_zero && t == begin,
                                prefetch);
        advance(prefetch, K);
      }
    }
  }
}

// All granules of a pass; offsets[g] to offsets[g + 1] are the rows of granule g.
inline void run(WeightGradientTask task, const int64_t* offsets, int64_t granules, bool first_begins, bool last_ends) {
  const WeightGradient& dweight = *task.dweight;
  const int64_t elements = task.chain_elements() + (kPanel + task.tiles() * kTileRows) * kBlock;
  task.chain = static_cast<float*>(thread_scratch(elements * 4));
  task.x_panel = task.chain + task.chain_elements();
  task.dy_strips = task.x_panel + kPanel * kBlock;
  float* kept = dweight.chain.f32();
  MaxBits largest;
  for (int64_t g = 0; g < granules; ++g) {
    // without a sum there is one granule, or what is given as several goes on in one chain
    const bool begins = g == 0 ? first_begins : dweight.sum != nullptr, ends = g + 1 < granules || last_ends;
    if (offsets[g + 1] == offsets[g] && (begins || !ends)) continue;
    if (!begins) {
      task.for_each_piece([&](float* p, int64_t at, int64_t n) {
        for (int64_t j = 0; j < n; ++j) p[j] = kept[at + j];
      });
    }
    add_products(task, offsets[g], offsets[g + 1], begins);
    if (ends && dweight.sum != nullptr) {
      task.for_each_piece([&](const float* p, int64_t at, int64_t n) {
        add_to_sum(dweight.sum + at, p, n, dweight.grid, largest);
        for (int64_t j = 0; j < n && !begins; ++j) kept[at + j] = 0.0f;
      });
    } else {
      task.for_each_piece([&](const float* p, int64_t at, int64_t n) {
        for (int64_t j = 0; j < n; ++j) kept[at + j] = p[j];
      });
    }
  }
  largest.merge_into(dweight.max_bits);
}

}  // namespace SIMD_TARGET
}  // namespace engine::simd
