#include "engine/ops/matmul.h"

#include "engine/ops/matmul_tasks.h"

namespace engine::ops::SIMD_TARGET {

using simd::kPanel;
using simd::smaller;

int64_t packed_weight_elements(int64_t N, int64_t D) {
  return simd::ceil_divide(N, kPanel) * kPanel * D;
}

void pack_weight(const PackWeight& a) {
  const int64_t N = a.weight_ND.rows(), D = a.weight_ND.columns();
  const float* weight = a.weight_ND.f32();
  parallel_for(simd::ceil_divide(N, kPanel), [&](int64_t p) {
    simd::pack_transposed_panel(weight + p * kPanel * D, D, N - p * kPanel, D, a.packed.f32() + p * kPanel * D);
  });
}

namespace {

// y [= or +=] x * B in tasks of rows and columns.
template <class Panels>
void product(Tensor y_TN, ConstTensor x_TK, Panels panels, ConstTensor bias_N, bool accumulate) {
  const int64_t T = x_TK.rows(), N = y_TN.columns(), column_blocks = simd::ceil_divide(N, simd::kColumnsPerTask);
  const int64_t tiles = simd::ceil_divide(T, simd::kTileRows) * column_blocks;
  const simd::RowTasks rows = simd::row_tasks(T, simd::product_tiles(tiles), column_blocks % 2 == 1);
  parallel_for(rows.tasks * column_blocks, [&](int64_t i) {
    const int64_t row = rows.begin(i / column_blocks), end = rows.begin(i / column_blocks + 1);
    const int64_t column = i % column_blocks * simd::kColumnsPerTask;
    simd::run(simd::ProductTask<Panels>{.x = x_TK.f32() + row * x_TK.row_stride,
                                        .x_step = x_TK.row_stride,
                                        .K = x_TK.columns(),
                                        .panels = panels,
                                        .bias = bias_N.f32(),
                                        .accumulate = accumulate,
                                        .y = y_TN.f32() + row * y_TN.row_stride,
                                        .y_step = y_TN.row_stride,
                                        .rows = end - row,
                                        .column_begin = column,
                                        .column_end = smaller(column + simd::kColumnsPerTask, N)});
  });
}

}  // namespace

void matmul_forward(const MatmulForward& a) {
  product(a.y_TN, a.x_TD, simd::PackedPanels{a.packed_weight.f32(), a.x_TD.columns()}, a.bias_N, false);
}

void matmul_backward_input(const MatmulBackwardInput& a) {
  product(a.dx_TD, a.dy_TN, simd::PanelsOfRows{a.weight_ND.f32(), a.weight_ND.row_stride}, {}, a.accumulate);
}

void matmul_backward_weight(const MatmulBackwardWeight& a) {
  const simd::RowTasks rows = simd::gradient_tasks(a.dy_TN.columns(), a.x_TD.columns());
  parallel_for(rows.tasks, [&](int64_t i) {
    simd::run(simd::WeightGradientTask{.dweight = &a.dweight_ND,
                                       .x = {a.x_TD.f32(), a.x_TD.row_stride},
                                       .dy = a.dy_TN.f32(),
                                       .dy_step = a.dy_TN.row_stride,
                                       .D = a.x_TD.columns(),
                                       .row_begin = rows.begin(i),
                                       .row_end = rows.begin(i + 1)},
              a.granules.offsets, a.granules.count, a.granules.begins, a.granules.ends);
  });
}

void bias_backward(const BiasBackward& a) {
  const int64_t N = a.dy_TN.columns();
  parallel_ranges(N, 64, [&](int64_t begin, int64_t end) {
    simd::MaxBits largest;
    float* chain = a.dbias_N.chain.f32();
    for (int64_t g = 0; g < a.granules.count; ++g) {
      for (int64_t t = a.granules.offsets[g]; t < a.granules.offsets[g + 1]; ++t) {
        const float* dy = a.dy_TN.f32() + t * a.dy_TN.row_stride;
        for (int64_t n = begin; n < end; ++n) chain[n] = chain[n] + dy[n];
      }
      if (g + 1 < a.granules.count || a.granules.ends) {
        simd::end_granule(a.dbias_N, begin, end - begin, largest);
      }
    }
    largest.merge_into(a.dbias_N.max_bits);
  });
}

}  // namespace engine::ops::SIMD_TARGET
