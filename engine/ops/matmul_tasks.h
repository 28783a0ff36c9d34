// One task's share of the three products, used for one weight and for many; for kernel files only.
#pragma once

#include "engine/core/thread_pool.h"
#include "engine/ops/gemm_kernel.h"
#include "engine/ops/gradient_chain.h"

namespace engine::simd {
inline namespace SIMD_TARGET {

inline constexpr int64_t kRowsPerTask = 16 * kTileRows;  // of y and dx
inline constexpr int64_t kColumnsPerTask = 8 * kPanel;   // of y and dx
inline constexpr int64_t kGradientColumns = 512;         // of dweight, packed together
ALWAYS_INLINE int64_t ceil_divide(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}
ALWAYS_INLINE int64_t smaller(int64_t a, int64_t b) {
  return a < b ? a : b;
}

// y[rows, columns begin..end) = bias + x * weight^T; `packed` is the whole packed weight [N, D].
struct ForwardTask {
  const float* x;
  int64_t x_step, D;
  const float* packed;
  const float* bias;  // null: none
  float* y;
  int64_t y_step, rows, column_begin, column_end;
};
inline void run(const ForwardTask& task) {
  if (task.bias != nullptr) {
    for (int64_t i = 0; i < task.rows; ++i) {
      for (int64_t n = task.column_begin; n < task.column_end; ++n) task.y[i * task.y_step + n] = task.bias[n];
    }
  }
  for (int64_t k = 0; k < task.D; k += kBlock) {
    const int64_t K = smaller(kBlock, task.D - k);
    for (int64_t n = task.column_begin; n < task.column_end; n += kPanel) {
      product_panel({task.x + k, task.x_step, 1}, task.packed + n * task.D + k * kPanel, K, task.y + n, task.y_step,
                    task.rows, smaller(kPanel, task.column_end - n), k == 0 && task.bias == nullptr);
    }
  }
}

// dx[rows, columns begin..end) = [dx +] dy * weight; weight is row-major [N, D].
struct InputGradientTask {
  const float* dy;
  int64_t dy_step, N;
  const float* weight;
  int64_t D;
  float* dx;
  int64_t dx_step, rows, column_begin, column_end;
  bool accumulate;
};
inline void run(const InputGradientTask& task) {
  float* panel = static_cast<float*>(thread_scratch(kBlock * kPanel * 4));
  for (int64_t d = task.column_begin; d < task.column_end; d += kPanel) {
    const int64_t columns = smaller(kPanel, task.column_end - d);
    for (int64_t k = 0; k < task.N; k += kBlock) {
      const int64_t K = smaller(kBlock, task.N - k);
      pack_panel(task.weight + k * task.D + d, task.D, K, columns, panel);
      product_panel({task.dy + k, task.dy_step, 1}, panel, K, task.dx + d, task.dx_step, task.rows, columns,
                    k == 0 && !task.accumulate);
    }
  }
}

// Rows [row_begin, row_end) and columns [column_begin, column_end) of dweight [N, D] over the tokens
// [begin, end) of one granule: dweight += dy^T x.
struct WeightGradientTask {
  const WeightGradient* dweight;
  const float *x, *dy;
  int64_t x_step, dy_step, D;
  int64_t row_begin, row_end, column_begin, column_end;
};
inline void add_tokens(const WeightGradientTask& task, int64_t begin, int64_t end) {
  const int64_t rows = task.row_end - task.row_begin, columns = task.column_end - task.column_begin;
  const int64_t panels = ceil_divide(columns, kPanel), slabs = ceil_divide(rows, kTileRows);
  float* x_panels = static_cast<float*>(thread_scratch((panels * kPanel + slabs * kTileRows) * kBlock * 4));
  float* dy_slabs = x_panels + panels * kPanel * kBlock;
  for (int64_t t = begin; t < end; t += kBlock) {
    const int64_t K = smaller(kBlock, end - t);
    for (int64_t p = 0; p < panels; ++p) {
      pack_panel(task.x + t * task.x_step + task.column_begin + p * kPanel, task.x_step, K,
                 smaller(kPanel, columns - p * kPanel), x_panels + p * kPanel * kBlock);
    }
    for (int64_t k = 0; k < K; ++k) {  // slab s holds kTileRows rows of dy^T, k by k
      const float* from = task.dy + (t + k) * task.dy_step + task.row_begin;
      for (int64_t i = 0; i < rows; ++i) dy_slabs[(i / kTileRows * kBlock + k) * kTileRows + i % kTileRows] = from[i];
    }
    for (int64_t p = 0; p < panels; ++p) {
      float* c = task.dweight->chain.f32() + task.row_begin * task.D + task.column_begin + p * kPanel;
      for (int64_t s = 0; s < slabs; ++s) {
        product_panel({dy_slabs + s * kBlock * kTileRows, 1, kTileRows}, x_panels + p * kPanel * kBlock, K,
                      c + s * kTileRows * task.D, task.D, smaller(kTileRows, rows - s * kTileRows),
                      smaller(kPanel, columns - p * kPanel), false);
      }
    }
  }
}

// All granules of a pass; offsets[g] to offsets[g + 1] are the rows of granule g.
inline void run(const WeightGradientTask& task, const int64_t* offsets, int64_t granules, bool last_ends) {
  MaxBits largest;
  for (int64_t g = 0; g < granules; ++g) {
    if (offsets[g + 1] > offsets[g]) add_tokens(task, offsets[g], offsets[g + 1]);
    if (g + 1 == granules && !last_ends) break;
    for (int64_t n = task.row_begin; n < task.row_end; ++n) {
      end_granule(*task.dweight, n * task.D + task.column_begin, task.column_end - task.column_begin, largest);
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
