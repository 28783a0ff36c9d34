#include <vector>

#include "engine/ops/cuda_grouped_gemm.h"
#include "engine/ops/gradient_chain.cuh"
#include "engine/ops/grouped_matmul.h"

// A product per expert. The numbers of rows are in host memory: see the header.
namespace engine::ops::cuda {
namespace {

// Empty. Kept by a thread, so that an op takes nothing from the heap once the list has grown.
std::vector<Gemm>& product_list() {
  thread_local std::vector<Gemm> list;
  list.clear();
  return list;
}

}  // namespace

void grouped_matmul_forward(const GroupedMatmulForward& a) {
  std::vector<Gemm>& products = product_list();
  for (int64_t e = 0; e < a.num_experts; ++e) {
    const int64_t begin = a.offsets_e[e], count = a.offsets_e[e + 1] - begin;
    const Tensor y = a.y_RN.slice_rows(begin, count);
    const ConstTensor x = a.x_RD.slice_rows(begin, count), &weight = a.packed_weights_e[e];
    products.push_back({.result = y.data,
                        .result_dtype = y.dtype,
                        .result_stride = y.row_stride,
                        .a = {x.data, x.dtype, x.row_stride, false},
                        .b = {weight.data, weight.dtype, x.columns(), true},
                        .M = count,
                        .N = y.columns(),
                        .K = x.columns()});
  }
  grouped_gemm(products, a.way);
}

void grouped_matmul_backward_input(const GroupedMatmulBackwardInput& a) {
  std::vector<Gemm>& products = product_list();
  for (int64_t e = 0; e < a.num_experts; ++e) {
    const int64_t begin = a.offsets_e[e], count = a.offsets_e[e + 1] - begin;
    const Tensor dx = a.dx_RD.slice_rows(begin, count);
    const ConstTensor dy = a.dy_RN.slice_rows(begin, count), &weight_ND = a.weights_eND[e];
    products.push_back({.result = dx.data,
                        .result_dtype = dx.dtype,
                        .result_stride = dx.row_stride,
                        .a = {dy.data, dy.dtype, dy.row_stride, false},
                        .b = {weight_ND.data, weight_ND.dtype, weight_ND.row_stride, false},
                        .M = count,
                        .N = dx.columns(),
                        .K = dy.columns(),
                        .accumulate = a.accumulate});
  }
  grouped_gemm(products, a.way);
}

void grouped_matmul_backward_weight(const GroupedMatmulBackwardWeight& a) {
  const int64_t G = a.num_granules;
  const auto product = [&](int64_t e, int64_t g) {
    const int64_t* offsets = a.granule_offsets + e * (G + 1);
    const int64_t begin = offsets[g], count = offsets[g + 1] - begin;
    const ConstTensor dy = a.dy_RN.slice_rows(begin, count), x = a.x_RD.slice_rows(begin, count);
    const Tensor& chain = a.dweights_eND[e].chain;
    return Gemm{.result = chain.data,
                .result_stride = chain.row_stride,
                .a = {dy.data, dy.dtype, dy.row_stride, true},
                .b = {x.data, x.dtype, x.row_stride, false},
                .M = dy.columns(),
                .N = x.columns(),
                .K = count,
                .accumulate = true};
  };
  const auto end = [&](int64_t e, int64_t g) {
    if (g + 1 < G || a.ends) end_granule(a.dweights_eND[e]);
  };
  // what is batched does not depend on each other, so it is a granule of all experts; elsewhere an expert's granules
  // are one part, in their order
  if (a.way == GroupedWay::batched && grouped_way_takes(a.way, a.x_RD.dtype, DType::f32)) {
    for (int64_t g = 0; g < G; ++g) {
      std::vector<Gemm>& products = product_list();
      for (int64_t e = 0; e < a.num_experts; ++e) products.push_back(product(e, g));
      grouped_gemm(products, a.way);
      for (int64_t e = 0; e < a.num_experts; ++e) end(e, g);
    }
    return;
  }
  GroupStreams streams(a.way);
  for (int64_t e = 0; e < a.num_experts; ++e) {
    const int64_t* offsets = a.granule_offsets + e * (G + 1);
    streams.next((offsets[G] - offsets[0]) * a.dy_RN.columns() * a.x_RD.columns());
    for (int64_t g = 0; g < G; ++g) {
      gemm(product(e, g));
      end(e, g);
    }
  }
  streams.join();
}

}  // namespace engine::ops::cuda
