// The one product kernel behind matmul and grouped_matmul; for kernel files only.
//
//   C[i,j] = C[i,j] + sum_k A[i,k] * B[k,j]      each element one chain of fused multiply-adds in the order of k
//
// A is read element by element (row pointers and a step, so activations are never packed when k runs along their
// rows), B from panels of kPanel columns: B[k, p * kPanel + j] = panel p [k * kPanel + j], zero beyond the last
// column. A tile of C stays in registers while k runs over a block; between blocks it goes through memory, which
// changes no bit. Tile sizes differ between instruction sets, results do not.
//
// The processor computes faster than the third cache answers, so while a panel is multiplied the next one is fetched
// into the second cache, a row every few k, and so is the tile of C that comes next.
#pragma once

#include "engine/core/simd.h"

namespace engine::simd {
inline namespace SIMD_TARGET {

#if defined(__AVX512F__)
inline constexpr int kTileRows = 12, kPanelVectors = 2;
#elif defined(__AVX2__)
inline constexpr int kTileRows = 6, kPanelVectors = 1;
#else
inline constexpr int kTileRows = 4, kPanelVectors = 1;
#endif
inline constexpr int64_t kPanel = kPanelVectors * kLanes;
inline constexpr int64_t kBlock = 512;  // of k

// A[i, k] = first[i * step + k]
struct RowsA {
  const float* first;
  int64_t step;
  ALWAYS_INLINE RowsA from(int64_t i, int64_t k) const { return {first + i * step + k, step}; }
  ALWAYS_INLINE float at(int64_t i, int64_t k) const { return first[i * step + k]; }
};
// A[i, k] = first[k * step + i]
struct ColumnsA {
  const float* first;
  int64_t step;
  ALWAYS_INLINE ColumnsA from(int64_t i, int64_t k) const { return {first + k * step + i, step}; }
  ALWAYS_INLINE float at(int64_t i, int64_t k) const { return first[k * step + i]; }
};

// Keeps a vector in a register: without it GCC reads B from memory again in every multiply-add.
ALWAYS_INLINE void keep_in_register(F16& x) {
#if defined(__AVX512F__)
  asm("" : "+v"(x.part[0]));
#elif defined(__AVX2__)
  asm("" : "+x"(x.part[0]), "+x"(x.part[1]));
#else
  (void)x;
#endif
}

// What is fetched meanwhile: for every `interval` values of k a row of kPanel floats, the next one `step` floats on.
struct Prefetch {
  const float* next;
  int64_t step, interval;
};

// The panel that is multiplied next; its rows are `step` floats apart.
struct NextPanel {
  const float* first;
  int64_t step = kPanel;
};

// So that `tiles` tiles of C together fetch all of a panel, if there are enough of them.
ALWAYS_INLINE Prefetch prefetch_panel(NextPanel next, int64_t tiles) {
  return {next.first, next.step, tiles >= 16 ? 16 : tiles >= 8 ? 8 : 4};
}
// For the tile after this one.
ALWAYS_INLINE void advance(Prefetch& prefetch, int64_t K) {
  prefetch.next += K / prefetch.interval * prefetch.step;
}

// kRows x kPanel elements of C over K values of k; `columns` of them are stored.
template <int kRows, class A>
ALWAYS_INLINE void product_tile(A a, const float* panel, int64_t K, float* c, int64_t c_step, int64_t columns,
                                bool from_zero, Prefetch prefetch) {
  F16 sums[kRows][kPanelVectors];
  _Pragma("GCC unroll 12") for (int i = 0; i < kRows; ++i) {
    _Pragma("GCC unroll 2") for (int v = 0; v < kPanelVectors; ++v) {
      const float* from = c + i * c_step + v * kLanes;
      const int64_t n = columns - v * kLanes;
      sums[i][v] = from_zero ? zero() : n >= kLanes ? load(from) : load_first(from, n > 0 ? n : 0);
    }
  }
  _Pragma("GCC unroll 12") for (int i = 0; i < kRows; ++i) {
    _Pragma("GCC unroll 2") for (int v = 0; v < kPanelVectors; ++v)
        __builtin_prefetch(c + (kRows + i) * c_step + v * kLanes, 1);
  }
  for (int64_t begin = 0; begin < K; begin += prefetch.interval) {
    const int64_t end = begin + prefetch.interval < K ? begin + prefetch.interval : K;
    _Pragma("GCC unroll 2") for (int v = 0; v < kPanelVectors; ++v)
        __builtin_prefetch(prefetch.next + v * kLanes, 0, 2);
    prefetch.next += prefetch.step;
    for (int64_t k = begin; k < end; ++k) {
      F16 b[kPanelVectors];
      _Pragma("GCC unroll 2") for (int v = 0; v < kPanelVectors; ++v) {
        b[v] = load(panel + k * kPanel + v * kLanes);
        keep_in_register(b[v]);
      }
      _Pragma("GCC unroll 12") for (int i = 0; i < kRows; ++i) {
        const F16 element = broadcast(a.at(i, k));
        _Pragma("GCC unroll 2") for (int v = 0; v < kPanelVectors; ++v) sums[i][v] = fma(element, b[v], sums[i][v]);
      }
    }
  }
  _Pragma("GCC unroll 12") for (int i = 0; i < kRows; ++i) {
    _Pragma("GCC unroll 2") for (int v = 0; v < kPanelVectors; ++v) {
      float* to = c + i * c_step + v * kLanes;
      const int64_t n = columns - v * kLanes;
      if (n >= kLanes) {
        store(to, sums[i][v]);
      } else if (n > 0) {
        store_first(to, sums[i][v], n);
      }
    }
  }
}

// The values of k that rows [i, i + n) of A take part with: all of them.
struct WholeK {
  int64_t K;
  ALWAYS_INLINE int64_t begin(int64_t) const { return 0; }
  ALWAYS_INLINE int64_t end(int64_t, int64_t) const { return K; }
};

// Rows [0, rows) of C and one panel; `next` is as large.
template <class A, class RangeOfK>
inline void product_panel(A a, const float* panel, RangeOfK range, float* c, int64_t c_step, int64_t rows,
                          int64_t columns, bool from_zero, NextPanel next) {
  Prefetch prefetch = prefetch_panel(next, rows / kTileRows);
  int64_t i = 0;
  const auto tile = [&]<int kRows>() __attribute__((always_inline)) {
    const int64_t k = range.begin(i), K = range.end(i, kRows) - k;
    product_tile<kRows>(a.from(i, k), panel + k * kPanel, K, c + i * c_step, c_step, columns, from_zero, prefetch);
    advance(prefetch, K);
    i += kRows;
  };
  while (i + kTileRows <= rows) tile.template operator()<kTileRows>();
  while (i + 4 <= rows) tile.template operator()<4>();
  while (i < rows) tile.template operator()<1>();
}

// Packs rows [0, rows) of a row-major matrix of K columns into one panel as the columns of B; beyond them it is zero.
// Sixteen columns of a row at a time, so that every line is read once.
inline void pack_transposed_panel(const float* first, int64_t row_step, int64_t rows, int64_t K, float* panel) {
  for (int64_t k = 0; k < K; k += kLanes) {
    const int64_t columns = K - k < kLanes ? K - k : kLanes;
    for (int64_t j = 0; j < kPanel; j += 4) {
      const float* from = first + j * row_step + k;
      float* to = panel + k * kPanel + j;
      if (j + 4 <= rows && columns == kLanes) {
        for (int64_t i = 0; i < kLanes; i += 4) transpose_4x4(from + i, row_step, to + i * kPanel, kPanel);
      } else {
        for (int64_t i = 0; i < columns; ++i) {
          for (int64_t l = 0; l < 4; ++l) to[i * kPanel + l] = j + l < rows ? from[l * row_step + i] : 0.0f;
        }
      }
    }
  }
}

// Packs columns [begin, begin + columns) of rows [0, K) of a row-major matrix into one panel.
inline void pack_panel(const float* first, int64_t row_step, int64_t K, int64_t columns, float* panel) {
  for (int64_t k = 0; k < K; ++k) {
    const float* from = first + k * row_step;
    float* to = panel + k * kPanel;
    if (columns >= kPanel) {
      _Pragma("GCC unroll 2") for (int v = 0; v < kPanelVectors; ++v) store(to + v * kLanes, load(from + v * kLanes));
    } else {
      for (int64_t j = 0; j < kPanel; ++j) to[j] = j < columns ? from[j] : 0.0f;
    }
  }
}

}  // namespace SIMD_TARGET
}  // namespace engine::simd
