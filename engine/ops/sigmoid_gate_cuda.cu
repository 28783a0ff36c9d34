#include "engine/core/cuda_reduce.cuh"
#include "engine/ops/sigmoid_gate.h"

namespace engine::ops::cuda {
namespace {

struct Rows {
  int64_t columns, first_stride, second_stride, third_stride;
};

// One block per row.
template <class X>
__global__ void forward_kernel(X* y, const X* x, const X* logit, Rows rows) {
  const int64_t t = blockIdx.x;
  const float s = 1.0f / (1.0f + expf(-to_float(logit[t])));
  for (int64_t d = threadIdx.x; d < rows.columns; d += blockDim.x) {
    y[t * rows.first_stride + d] = from_float<X>(s * to_float(x[t * rows.second_stride + d]));
  }
}

template <class X>
__global__ void backward_kernel(X* dx, X* dlogit, const X* dy, const X* x, const X* logit, Rows rows) {
  const int64_t t = blockIdx.x;
  const float s = 1.0f / (1.0f + expf(-to_float(logit[t])));
  float dots = 0;
  for (int64_t d = threadIdx.x; d < rows.columns; d += blockDim.x) {
    const float g = to_float(dy[t * rows.second_stride + d]);
    dots += g * to_float(x[t * rows.third_stride + d]);
    dx[t * rows.first_stride + d] = from_float<X>(s * g);
  }
  dots = block_reduce(dots, Sum{});
  if (threadIdx.x == 0) dlogit[t] = from_float<X>(s * (1.0f - s) * dots);
}

}  // namespace

void sigmoid_gate_forward(const SigmoidGateForward& a) {
  with_storage({a.x_TD, a.y_TD, a.logit_T}, [&]<class X>(X) {
    launch(forward_kernel<X>, blocks_for(a.x_TD.rows(), 1), threads_for_row(a.x_TD.columns()), 0, device_stream(),
           data_of<X>(a.y_TD), data_of<X>(a.x_TD), data_of<X>(a.logit_T),
           Rows{a.x_TD.columns(), a.y_TD.row_stride, a.x_TD.row_stride, 0});
  });
}

void sigmoid_gate_backward(const SigmoidGateBackward& a) {
  with_storage({a.dx_TD, a.dlogit_T, a.dy_TD, a.x_TD, a.logit_T}, [&]<class X>(X) {
    launch(backward_kernel<X>, blocks_for(a.x_TD.rows(), 1), threads_for_row(a.x_TD.columns()), 0, device_stream(),
           data_of<X>(a.dx_TD), data_of<X>(a.dlogit_T), data_of<X>(a.dy_TD), data_of<X>(a.x_TD), data_of<X>(a.logit_T),
           Rows{a.x_TD.columns(), a.dx_TD.row_stride, a.dy_TD.row_stride, a.x_TD.row_stride});
  });
}

}  // namespace engine::ops::cuda
