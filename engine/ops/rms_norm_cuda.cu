#include "engine/core/cuda_reduce.cuh"
#include "engine/ops/gradient_chain.cuh"
#include "engine/ops/rms_norm.h"

namespace engine::ops::cuda {
namespace {

// One block per row.
template <class X>
__global__ void forward_kernel(X* y, float* rstd, const X* x, const float* weight, int64_t D, int64_t y_stride,
                               int64_t x_stride, float eps) {
  const int64_t t = blockIdx.x;
  const X* row = x + t * x_stride;
  float squares = 0;
  for (int64_t d = threadIdx.x; d < D; d += blockDim.x) squares += to_float(row[d]) * to_float(row[d]);
  const float scale = 1.0f / sqrtf(block_reduce(squares, Sum{}) / static_cast<float>(D) + eps);
  if (threadIdx.x == 0) rstd[t] = scale;
  for (int64_t d = threadIdx.x; d < D; d += blockDim.x) {
    y[t * y_stride + d] = from_float<X>(to_float(row[d]) * scale * weight[d]);
  }
}

struct Strides {
  int64_t dx, dy, x;
};

// One block per row; dx may be dy.
template <class X>
__global__ void backward_kernel(X* dx, const X* dy, const X* x, const float* weight, const float* rstd, int64_t D,
                                Strides strides, bool assign) {
  const int64_t t = blockIdx.x;
  const X *dy_row = dy + t * strides.dy, *x_row = x + t * strides.x;
  float dots = 0;
  for (int64_t d = threadIdx.x; d < D; d += blockDim.x) dots += to_float(dy_row[d]) * weight[d] * to_float(x_row[d]);
  const float scale = rstd[t], along = block_reduce(dots, Sum{}) / static_cast<float>(D) * scale * scale;
  for (int64_t d = threadIdx.x; d < D; d += blockDim.x) {
    X* to = dx + t * strides.dx + d;
    const float g = (to_float(dy_row[d]) * weight[d] - to_float(x_row[d]) * along) * scale;
    *to = from_float<X>(assign ? g : to_float(*to) + g);
  }
}

template <class X>
struct WeightTerm {
  const X *dy, *x;
  const float* rstd;
  int64_t dy_stride, x_stride;
  __device__ float operator()(float sum, int64_t t, int64_t d) const {
    return sum + to_float(dy[t * dy_stride + d]) * (to_float(x[t * x_stride + d]) * rstd[t]);
  }
};

}  // namespace

void rms_norm_forward(const RmsNormForward& a) {
  with_storage({a.x_TD, a.y_TD}, [&]<class X>(X) {
    launch(forward_kernel<X>, blocks_for(a.x_TD.rows(), 1), threads_for_row(a.x_TD.columns()), 0, device_stream(),
           data_of<X>(a.y_TD), a.rstd_T.f32(), data_of<X>(a.x_TD), a.weight_D.f32(), a.x_TD.columns(),
           a.y_TD.row_stride, a.x_TD.row_stride, a.eps);
  });
}

void rms_norm_backward(const RmsNormBackward& a) {
  with_storage({a.x_TD, a.dy_TD, a.dx_TD}, [&]<class X>(X) {
    // dweight first: dx may be dy
    add_row_sums(
        a.dweight_D, a.granules,
        WeightTerm<X>{data_of<X>(a.dy_TD), data_of<X>(a.x_TD), a.rstd_T.f32(), a.dy_TD.row_stride, a.x_TD.row_stride});
    launch(backward_kernel<X>, blocks_for(a.x_TD.rows(), 1), threads_for_row(a.x_TD.columns()), 0, device_stream(),
           data_of<X>(a.dx_TD), data_of<X>(a.dy_TD), data_of<X>(a.x_TD), a.weight_D.f32(), a.rstd_T.f32(),
           a.x_TD.columns(), Strides{a.dx_TD.row_stride, a.dy_TD.row_stride, a.x_TD.row_stride}, a.assign);
  });
}

}  // namespace engine::ops::cuda
