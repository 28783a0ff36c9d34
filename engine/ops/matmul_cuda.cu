#include "engine/ops/cuda_gemm.h"
#include "engine/ops/gradient_chain.cuh"
#include "engine/ops/matmul.h"

namespace engine::ops::cuda {
namespace {

constexpr unsigned kThreads = 256;

template <class X>
__global__ void convert_kernel(X* to, const float* from, int64_t count) {
  const int64_t i = global_thread();
  if (i < count) to[i] = from_float<X>(from[i]);
}

// y[t, n] = bias[n]
template <class X>
__global__ void bias_kernel(X* y, const float* bias, int64_t rows, int64_t columns, int64_t stride) {
  const int64_t i = global_thread();
  if (i < rows * columns) y[i / columns * stride + i % columns] = from_float<X>(bias[i % columns]);
}

template <class X>
struct BiasTerm {
  const X* dy;
  int64_t stride;
  __device__ float operator()(float sum, int64_t t, int64_t n) const { return sum + to_float(dy[t * stride + n]); }
};

}  // namespace

void pack_weight(const PackWeight& a) {
  with_storage({a.packed}, [&]<class X>(X) {
    const int64_t count = a.weight_ND.num_elements();
    launch(convert_kernel<X>, blocks_for(count, kThreads), kThreads, 0, device_stream(), data_of<X>(a.packed),
           a.weight_ND.f32(), count);
  });
}

void matmul_forward(const MatmulForward& a) {
  const int64_t T = a.x_TD.rows(), N = a.y_TN.columns(), D = a.x_TD.columns();
  if (a.bias_N) {
    with_storage({a.y_TN}, [&]<class X>(X) {
      launch(bias_kernel<X>, blocks_for(T * N, kThreads), kThreads, 0, device_stream(), data_of<X>(a.y_TN),
             a.bias_N.f32(), T, N, a.y_TN.row_stride);
    });
  }
  gemm({.result = a.y_TN.data,
        .result_dtype = a.y_TN.dtype,
        .result_stride = a.y_TN.row_stride,
        .a = {a.x_TD.data, a.x_TD.dtype, a.x_TD.row_stride, false},
        .b = {a.packed_weight.data, a.packed_weight.dtype, D, true},
        .M = T,
        .N = N,
        .K = D,
        .accumulate = static_cast<bool>(a.bias_N)});
}

void matmul_backward_input(const MatmulBackwardInput& a) {
  gemm({.result = a.dx_TD.data,
        .result_dtype = a.dx_TD.dtype,
        .result_stride = a.dx_TD.row_stride,
        .a = {a.dy_TN.data, a.dy_TN.dtype, a.dy_TN.row_stride, false},
        .b = {a.weight_ND.data, a.weight_ND.dtype, a.weight_ND.row_stride, false},
        .M = a.dx_TD.rows(),
        .N = a.dx_TD.columns(),
        .K = a.dy_TN.columns(),
        .accumulate = a.accumulate});
}

void matmul_backward_weight(const MatmulBackwardWeight& a) {
  for (int64_t g = 0; g < a.granules.count; ++g) {
    const int64_t begin = a.granules.offsets[g], count = a.granules.offsets[g + 1] - begin;
    const ConstTensor dy = a.dy_TN.slice_rows(begin, count), x = a.x_TD.slice_rows(begin, count);
    gemm({.result = a.dweight_ND.chain.data,
          .result_stride = a.dweight_ND.chain.row_stride,
          .a = {dy.data, dy.dtype, dy.row_stride, true},
          .b = {x.data, x.dtype, x.row_stride, false},
          .M = dy.columns(),
          .N = x.columns(),
          .K = count,
          .accumulate = true});
    if (g + 1 < a.granules.count || a.granules.ends) end_granule(a.dweight_ND);
  }
}

void bias_backward(const BiasBackward& a) {
  with_storage({a.dy_TN}, [&]<class X>(X) {
    add_row_sums(a.dbias_N, a.granules, BiasTerm<X>{data_of<X>(a.dy_TN), a.dy_TN.row_stride});
  });
}

}  // namespace engine::ops::cuda
