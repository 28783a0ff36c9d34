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
inline void gradient_panel(const WeightGradientTask& task, int64_t column, int64_t begin, int64_t end, bool begins,
                           bool ends, float* chain, MaxBits& largest) {
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
    for (int64_t i = 0; i < rows; i += kTileRows) {
      const int64_t n = smaller(kTileRows, rows - i);
      if (t + kBlock >= end && sum != nullptr && ends) {  // wanted when the panel is done
        for (int64_t row = i; row < i + n; ++row) {
          for (int64_t j = 0; j < columns; j += 8) __builtin_prefetch(sum + row * task.D + j, 1);
        }
      }
      product_panel({task.packed.dy + (task.row_begin + i) * task.R + t * kTileRows, 1, kTileRows}, x + t * kPanel, K,
                    chain + i * kPanel, kPanel, n, kPanel, begins && t == begin);
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
  float* chain = static_cast<float*>(thread_scratch((task.row_end - task.row_begin) * kPanel * 4));
  for (int64_t column = task.column_begin; column < task.column_end; column += kPanel) {
    for (int64_t g = 0; g < granules; ++g) {  // the panel's sums stay in cache
      // without a sum there is one granule, or what is given as several goes on in one chain
      const bool begins = g == 0 ? first_begins : task.dweight->sum != nullptr, ends = g + 1 < granules || last_ends;
      if (offsets[g + 1] == offsets[g] && (begins || !ends)) continue;
      gradient_panel(task, column, offsets[g], offsets[g + 1], begins, ends, chain, largest);
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
