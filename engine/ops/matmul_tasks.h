// One task's share of the three products, used for one weight and for many; for kernel files only.
#pragma once

#include "engine/core/thread_pool.h"
#include "engine/ops/gemm_kernel.h"
#include "engine/ops/gradient_chain.h"

namespace engine::simd {
inline namespace SIMD_TARGET {

inline constexpr int64_t kColumnsPerTask = 8 * kPanel;  // of y and dx
inline constexpr int64_t kGradientColumns = 512;        // of dweight, packed together
ALWAYS_INLINE int64_t ceil_divide(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}
ALWAYS_INLINE int64_t smaller(int64_t a, int64_t b) {
  return a < b ? a : b;
}

// Rows of y or dx per task: equal shares of at most 22 tiles, so that the last task is no small one.
ALWAYS_INLINE int64_t rows_per_task(int64_t rows) {
  const int64_t tasks = ceil_divide(rows, 22 * kTileRows);
  return tasks == 0 ? kTileRows : ceil_divide(ceil_divide(rows, tasks), kTileRows) * kTileRows;
}

// y[rows, columns begin..end) = start + x * B, where `packed` is the whole of B [K, N] in panels of its columns and
// start is y itself, the bias, or zero. Forward B is the transposed weight, for the input gradient the weight.
struct ProductTask {
  const float* x;
  int64_t x_step, K;
  const float* packed;
  const float* bias;  // null: none
  bool accumulate;    // not with a bias
  float* y;
  int64_t y_step, rows, column_begin, column_end;
};
inline void run(const ProductTask& task) {
  if (task.bias != nullptr) {
    for (int64_t i = 0; i < task.rows; ++i) {
      for (int64_t n = task.column_begin; n < task.column_end; ++n) task.y[i * task.y_step + n] = task.bias[n];
    }
  }
  const bool from_zero = task.bias == nullptr && !task.accumulate;
  for (int64_t k = 0; k < task.K; k += kBlock) {
    const int64_t K = smaller(kBlock, task.K - k);
    for (int64_t n = task.column_begin; n < task.column_end; n += kPanel) {
      const float* panel = task.packed + n * task.K + k * kPanel;
      product_panel({task.x + k, task.x_step, 1}, panel, K, task.y + n, task.y_step, task.rows,
                    smaller(kPanel, task.column_end - n), from_zero && k == 0, panel + kPanel * task.K);
    }
  }
}

// A matrix [R, C] cut into strips of kWidth columns, each row after row: strip s at s * R * kWidth, zero beyond C.
template <int64_t kWidth>
ALWAYS_INLINE void pack_strips(const float* x, int64_t x_step, int64_t R, int64_t C, float* strips) {
  constexpr int64_t kRows = 8;  // so few lines of one set of the cache are read at once, rows a power of two apart
  parallel_ranges(ceil_divide(R, kRows), 8, [&](int64_t first_block, int64_t last_block) {
    for (int64_t block = first_block; block < last_block; ++block) {
      const int64_t begin = block * kRows, end = smaller(begin + kRows, R);
      for (int64_t s = 0; s * kWidth < C; ++s) {
        const int64_t columns = smaller(kWidth, C - s * kWidth);
        for (int64_t r = begin; r < end; ++r) {
          const float* from = x + r * x_step + s * kWidth;
          float* to = strips + (s * R + r) * kWidth;
          if (columns == kWidth) {
            for (int64_t j = 0; j < kWidth; ++j) to[j] = from[j];
          } else {
            for (int64_t j = 0; j < kWidth; ++j) to[j] = j < columns ? from[j] : 0.0f;
          }
        }
      }
    }
  });
}

// x in strips of kPanel columns and dy in strips of kTileRows, in the memory that the tasks of an op share.
struct PackedActivations {
  const float *x, *dy;
};
inline PackedActivations pack_activations(ConstTensor x_RD, ConstTensor dy_RN) {
  const int64_t R = x_RD.rows(), D = x_RD.columns(), N = dy_RN.columns();
  const int64_t x_elements = ceil_divide(D, kPanel) * kPanel * R;
  float* x = static_cast<float*>(op_scratch((x_elements + ceil_divide(N, kTileRows) * kTileRows * R) * 4));
  float* dy = x + x_elements;
  pack_strips<kPanel>(x_RD.f32(), x_RD.row_stride, R, D, x);
  pack_strips<kTileRows>(dy_RN.f32(), dy_RN.row_stride, R, N, dy);
  return {x, dy};
}

// Rows [row_begin, row_end) and columns [column_begin, column_end) of dweight [N, D]: dweight += dy^T x. Both begin
// at the edge of a tile.
struct WeightGradientTask {
  const WeightGradient* dweight;
  PackedActivations packed;
  int64_t R, D;
  int64_t row_begin, row_end, column_begin, column_end;
};

// One panel of columns over tokens [begin, end) of one granule. The panel's values p stay in `chain`, memory of the
// task, while the tokens go by; only a granule that continues from or into another pass goes through the weight's own.
// `next` is what of x is wanted afterwards.
inline void gradient_panel(const WeightGradientTask& task, int64_t column, int64_t begin, int64_t end, bool begins,
                           bool ends, float* chain, const float* next, MaxBits& largest) {
  const WeightGradient& dweight = *task.dweight;
  const int64_t rows = task.row_end - task.row_begin, columns = smaller(kPanel, task.column_end - column);
  float* kept = dweight.chain.f32() + task.row_begin * task.D + column;
  double* sum = dweight.sum == nullptr ? nullptr : dweight.sum + task.row_begin * task.D + column;
  for (int64_t i = 0; i < rows && !begins; ++i) {
    for (int64_t j = 0; j < columns; ++j) chain[i * kPanel + j] = kept[i * task.D + j];
  }
  const float* x = task.packed.x + column * task.R;
  for (int64_t t = begin; t < end; t += kBlock) {
    const int64_t K = smaller(kBlock, end - t);
    Prefetch prefetch = prefetch_panel(t + K < end ? x + (t + K) * kPanel : next, rows);
    for (int64_t i = 0; i < rows; i += kTileRows, advance(prefetch, K)) {
      for (int64_t row = i; row < smaller(i + kTileRows, rows) && t + K == end && sum != nullptr && ends; ++row) {
        for (int64_t j = 0; j < columns; j += 8) __builtin_prefetch(sum + row * task.D + j, 1);  // added to soon
      }
      product_tile<kTileRows>({task.packed.dy + (task.row_begin + i) * task.R + t * kTileRows, 1, kTileRows},
                              x + t * kPanel, K, chain + i * kPanel, kPanel, kPanel, begins && t == begin, prefetch);
    }
  }
  for (int64_t i = 0; i < rows; ++i) {
    float* p = chain + i * kPanel;
    if (ends && sum != nullptr) {
      add_to_sum(sum + i * task.D, p, columns, dweight.grid, largest);
      for (int64_t j = 0; j < columns && !begins; ++j) kept[i * task.D + j] = 0.0f;
    } else {
      for (int64_t j = 0; j < columns; ++j) kept[i * task.D + j] = p[j];
    }
  }
}

// All granules of a pass; offsets[g] to offsets[g + 1] are the rows of granule g.
inline void run(const WeightGradientTask& task, const int64_t* offsets, int64_t granules, bool first_begins,
                bool last_ends) {
  MaxBits largest;
  const int64_t rows = ceil_divide(task.row_end - task.row_begin, kTileRows) * kTileRows;
  float* chain = static_cast<float*>(thread_scratch(rows * kPanel * 4));
  for (int64_t column = task.column_begin; column < task.column_end; column += kPanel) {
    for (int64_t g = 0; g < granules; ++g) {  // the panel's sums stay in cache
      // without a sum there is one granule, or what is given as several goes on in one chain
      const bool begins = g == 0 ? first_begins : task.dweight->sum != nullptr, ends = g + 1 < granules || last_ends;
      if (offsets[g + 1] == offsets[g] && (begins || !ends)) continue;
      const float* next = task.packed.x + (g + 1 < granules ? column * task.R + offsets[g + 1] * kPanel
                                                            : (column + kPanel) * task.R + offsets[0] * kPanel);
      gradient_panel(task, column, offsets[g], offsets[g + 1], begins, ends, chain, next, largest);
    }
  }
  largest.merge_into(task.dweight->max_bits);
}

// Rows of dweight per task, so that the tasks of one weight are even in number and of nearly one size.
ALWAYS_INLINE int64_t gradient_rows_per_task(int64_t N) {
  const int64_t tasks = ceil_divide(ceil_divide(N, 16 * kTileRows), 2) * 2;
  return ceil_divide(ceil_divide(N, tasks), kTileRows) * kTileRows;
}

}  // namespace SIMD_TARGET
}  // namespace engine::simd
