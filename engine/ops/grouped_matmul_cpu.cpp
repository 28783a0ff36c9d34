#include "engine/ops/grouped_matmul.h"

#include "engine/ops/matmul_tasks.h"

namespace engine::ops::SIMD_TARGET {

using simd::ceil_divide;
using simd::smaller;

namespace {

// (expert, row block) of task i among the row blocks of all experts.
struct RowBlock {
  int64_t expert, begin, end;
};

int64_t num_row_blocks(const int64_t* offsets_e, int64_t num_experts) {
  int64_t blocks = 0;
  for (int64_t e = 0; e < num_experts; ++e) blocks += ceil_divide(offsets_e[e + 1] - offsets_e[e], simd::kRowsPerTask);
  return blocks;
}

RowBlock row_block(const int64_t* offsets_e, int64_t i) {
  for (int64_t e = 0;; ++e) {
    const int64_t blocks = ceil_divide(offsets_e[e + 1] - offsets_e[e], simd::kRowsPerTask);
    if (i < blocks) {
      const int64_t begin = offsets_e[e] + i * simd::kRowsPerTask;
      return {e, begin, smaller(begin + simd::kRowsPerTask, offsets_e[e + 1])};
    }
    i -= blocks;
  }
}

}  // namespace

void grouped_matmul_forward(const GroupedMatmulForward& a) {
  const int64_t N = a.y_RN.columns(), column_blocks = ceil_divide(N, simd::kColumnsPerTask);
  parallel_for(num_row_blocks(a.offsets_e, a.num_experts) * column_blocks, [&](int64_t i) {
    const RowBlock rows = row_block(a.offsets_e, i / column_blocks);
    const int64_t column = i % column_blocks * simd::kColumnsPerTask;
    simd::run(simd::ForwardTask{.x = a.x_RD.f32() + rows.begin * a.x_RD.row_stride,
                                .x_step = a.x_RD.row_stride,
                                .D = a.x_RD.columns(),
                                .packed = a.packed_weights_e[rows.expert].f32(),
                                .bias = nullptr,
                                .y = a.y_RN.f32() + rows.begin * a.y_RN.row_stride,
                                .y_step = a.y_RN.row_stride,
                                .rows = rows.end - rows.begin,
                                .column_begin = column,
                                .column_end = smaller(column + simd::kColumnsPerTask, N)});
  });
}

void grouped_matmul_backward_input(const GroupedMatmulBackwardInput& a) {
  const int64_t D = a.dx_RD.columns(), column_blocks = ceil_divide(D, simd::kColumnsPerTask);
  parallel_for(num_row_blocks(a.offsets_e, a.num_experts) * column_blocks, [&](int64_t i) {
    const RowBlock rows = row_block(a.offsets_e, i / column_blocks);
    const int64_t column = i % column_blocks * simd::kColumnsPerTask;
    simd::run(simd::InputGradientTask{.dy = a.dy_RN.f32() + rows.begin * a.dy_RN.row_stride,
                                      .dy_step = a.dy_RN.row_stride,
                                      .N = a.dy_RN.columns(),
                                      .weight = a.weights_eND[rows.expert].f32(),
                                      .D = D,
                                      .dx = a.dx_RD.f32() + rows.begin * a.dx_RD.row_stride,
                                      .dx_step = a.dx_RD.row_stride,
                                      .rows = rows.end - rows.begin,
                                      .column_begin = column,
                                      .column_end = smaller(column + simd::kColumnsPerTask, D),
                                      .accumulate = a.accumulate});
  });
}

void grouped_matmul_backward_weight(const GroupedMatmulBackwardWeight& a) {
  const int64_t N = a.dy_RN.columns(), D = a.x_RD.columns(), G = a.num_granules;
  const int64_t rows = simd::gradient_rows_per_task(N), row_blocks = ceil_divide(N, rows);
  const int64_t column_blocks = ceil_divide(D, simd::kGradientColumns), blocks = row_blocks * column_blocks;
  const simd::PackedActivations packed = simd::pack_activations(a.x_RD, a.dy_RN);
  parallel_for(a.num_experts * blocks, [&](int64_t i) {
    const int64_t e = i / blocks, row = i % blocks / column_blocks * rows;
    const int64_t column = i % column_blocks * simd::kGradientColumns;
    simd::run(simd::WeightGradientTask{.dweight = &a.dweights_eND[e],
                                       .packed = packed,
                                       .R = a.x_RD.rows(),
                                       .D = D,
                                       .row_begin = row,
                                       .row_end = smaller(row + rows, N),
                                       .column_begin = column,
                                       .column_end = smaller(column + simd::kGradientColumns, D)},
              a.granule_offsets + e * (G + 1), G, a.begins, a.ends);
  });
}

}  // namespace engine::ops::SIMD_TARGET
