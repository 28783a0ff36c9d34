#include "engine/ops/grouped_matmul.h"

#include "engine/ops/cuda_gemm.h"
#include "engine/ops/gradient_chain.cuh"

// One product per expert on one stream. The numbers of rows are in host memory: see the header.
namespace engine::ops::cuda {

void grouped_matmul_forward(const GroupedMatmulForward& a) {
  for (int64_t e = 0; e < a.num_experts; ++e) {
    const int64_t begin = a.offsets_e[e], count = a.offsets_e[e + 1] - begin;
    const Tensor y = a.y_RN.slice_rows(begin, count);
    const ConstTensor x = a.x_RD.slice_rows(begin, count), &weight = a.packed_weights_e[e];
    gemm({.result = y.data,
          .result_dtype = y.dtype,
          .result_stride = y.row_stride,
          .a = {x.data, x.dtype, x.row_stride, false},
          .b = {weight.data, weight.dtype, x.columns(), true},
          .M = count,
          .N = y.columns(),
          .K = x.columns()});
  }
}

void grouped_matmul_backward_input(const GroupedMatmulBackwardInput& a) {
  for (int64_t e = 0; e < a.num_experts; ++e) {
    const int64_t begin = a.offsets_e[e], count = a.offsets_e[e + 1] - begin;
    const Tensor dx = a.dx_RD.slice_rows(begin, count);
    const ConstTensor dy = a.dy_RN.slice_rows(begin, count), &weight_ND = a.weights_eND[e];
    gemm({.result = dx.data,
          .result_dtype = dx.dtype,
          .result_stride = dx.row_stride,
          .a = {dy.data, dy.dtype, dy.row_stride, false},
          .b = {weight_ND.data, weight_ND.dtype, weight_ND.row_stride, false},
          .M = count,
          .N = dx.columns(),
          .K = dy.columns(),
          .accumulate = a.accumulate});
  }
}

void grouped_matmul_backward_weight(const GroupedMatmulBackwardWeight& a) {
  for (int64_t e = 0; e < a.num_experts; ++e) {
    const int64_t* offsets = a.granule_offsets + e * (a.num_granules + 1);
    for (int64_t g = 0; g < a.num_granules; ++g) {
      const ConstTensor dy = a.dy_RN.slice_rows(offsets[g], offsets[g + 1] - offsets[g]);
      const ConstTensor x = a.x_RD.slice_rows(offsets[g], offsets[g + 1] - offsets[g]);
      const Tensor& chain = a.dweights_eND[e].chain;
      gemm({.result = chain.data,
            .result_stride = chain.row_stride,
            .a = {dy.data, dy.dtype, dy.row_stride, true},
            .b = {x.data, x.dtype, x.row_stride, false},
            .M = dy.columns(),
            .N = x.columns(),
            .K = x.rows(),
            .accumulate = true});
      if (g + 1 < a.num_granules || a.ends) end_granule(a.dweights_eND[e]);
    }
  }
}

}  // namespace engine::ops::cuda
