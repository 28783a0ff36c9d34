#include "engine/ops/grouped_matmul.h"

#include "engine/ops/matmul_tasks.h"

namespace engine::ops::SIMD_TARGET {

using simd::ceil_divide;
using simd::smaller;

namespace {

// The rows of all experts in tasks.
struct ExpertRows {
  const int64_t* offsets_e;
  int64_t num_experts, most_tiles;

  simd::RowTasks of(int64_t e) const { return simd::row_tasks(offsets_e[e + 1] - offsets_e[e], most_tiles, false); }
  int64_t num_tasks() const {
    int64_t tasks = 0;
    for (int64_t e = 0; e < num_experts; ++e) tasks += of(e).tasks;
    return tasks;
  }
};
struct RowBlock {
  int64_t expert, begin, end;
};
RowBlock row_block(const ExpertRows& rows, int64_t task) {
  int64_t e = 0;
  simd::RowTasks of = rows.of(0);
  for (; task >= of.tasks; of = rows.of(++e)) task -= of.tasks;
  return {e, rows.offsets_e[e] + of.begin(task), rows.offsets_e[e] + of.begin(task + 1)};
}

// y [= or +=] x * B_e in tasks of an expert's rows and columns; panels_of(e) are those of B_e.
template <class PanelsOf>
void product(Tensor y_RN, ConstTensor x_RK, PanelsOf panels_of, const int64_t* offsets_e, int64_t num_experts,
             bool accumulate) {
  const int64_t N = y_RN.columns(), column_blocks = ceil_divide(N, simd::kColumnsPerTask);
  const int64_t tiles = ceil_divide(x_RK.rows(), simd::kTileRows) * column_blocks;
  const ExpertRows expert_rows{offsets_e, num_experts, simd::product_tiles(tiles)};
  parallel_for(expert_rows.num_tasks() * column_blocks, [&](int64_t i) {
    const RowBlock rows = row_block(expert_rows, i / column_blocks);
    const int64_t column = i % column_blocks * simd::kColumnsPerTask;
    const auto panels = panels_of(rows.expert);
    simd::run(simd::ProductTask<decltype(panels)>{.x = x_RK.f32() + rows.begin * x_RK.row_stride,
                                                  .x_step = x_RK.row_stride,
                                                  .K = x_RK.columns(),
                                                  .panels = panels,
                                                  .bias = nullptr,
                                                  .accumulate = accumulate,
                                                  .y = y_RN.f32() + rows.begin * y_RN.row_stride,
                                                  .y_step = y_RN.row_stride,
                                                  .rows = rows.end - rows.begin,
                                                  .column_begin = column,
                                                  .column_end = smaller(column + simd::kColumnsPerTask, N)});
  });
}

}  // namespace

void grouped_matmul_forward(const GroupedMatmulForward& a) {
  const auto panels_of = [&](int64_t e) { return simd::PackedPanels{a.packed_weights_e[e].f32(), a.x_RD.columns()}; };
  product(a.y_RN, a.x_RD, panels_of, a.offsets_e, a.num_experts, false);
}

void grouped_matmul_backward_input(const GroupedMatmulBackwardInput& a) {
  const auto panels_of = [&](int64_t e) {
    return simd::PanelsOfRows{a.weights_eND[e].f32(), a.weights_eND[e].row_stride};
  };
  product(a.dx_RD, a.dy_RN, panels_of, a.offsets_e, a.num_experts, a.accumulate);
}

void grouped_matmul_backward_weight(const GroupedMatmulBackwardWeight& a) {
  const int64_t N = a.dy_RN.columns(), D = a.x_RD.columns(), G = a.num_granules;
  const simd::RowTasks rows = simd::gradient_tasks(N, D);
  parallel_for(a.num_experts * rows.tasks, [&](int64_t i) {
    const int64_t e = i / rows.tasks, task = i % rows.tasks;
    simd::run(simd::WeightGradientTask{.dweight = &a.dweights_eND[e],
                                       .x = {a.x_RD.f32(), a.x_RD.row_stride},
                                       .dy = a.dy_RN.f32(),
                                       .dy_step = a.dy_RN.row_stride,
                                       .D = D,
                                       .row_begin = rows.begin(task),
                                       .row_end = rows.begin(task + 1)},
              a.granule_offsets + e * (G + 1), G, a.begins, a.ends);
  });
}

}  // namespace engine::ops::SIMD_TARGET
