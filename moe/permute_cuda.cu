#include "engine/core/cuda_reduce.cuh"
#include "moe/permute.h"

namespace moe::cuda {
namespace {

using engine::blocks_for;
using engine::data_of;
using engine::device_stream;
using engine::from_float;
using engine::kWarp;
using engine::launch;
using engine::threads_for_row;
using engine::to_float;
using engine::with_storage;

struct Shape {
  int64_t columns, y_stride, x_stride;
};

// One block per row.
template <class X>
__global__ void permute_kernel(X* y, const X* x, const int32_t* rows, const float* scales, Shape shape) {
  const int64_t n = blockIdx.x, row = rows[n];
  const float scale = scales == nullptr ? 1.0f : scales[n];
  for (int64_t d = threadIdx.x; d < shape.columns; d += blockDim.x) {
    y[n * shape.y_stride + d] = from_float<X>(row < 0 ? 0.0f : scale * to_float(x[row * shape.x_stride + d]));
  }
}

template <class X>
__global__ void unpermute_kernel(X* y, const X* x, const int32_t* rows, const float* weights, int64_t K, Shape shape) {
  const int64_t t = blockIdx.x;
  for (int64_t d = threadIdx.x; d < shape.columns; d += blockDim.x) {
    float sum = 0;
    for (int64_t k = 0; k < K; ++k) {
      const int64_t row = rows[t * K + k];
      if (row < 0) continue;
      const float weight = weights == nullptr ? 1.0f : weights[t * K + k];
      sum += weight * to_float(x[row * shape.x_stride + d]);
    }
    y[t * shape.y_stride + d] = from_float<X>(sum);
  }
}

// One warp per slot.
template <class X>
__global__ void weights_kernel(float* dweights, const X* dy, const X* x, const int32_t* rows, int64_t slots, int64_t K,
                               Shape shape) {
  const int64_t slot = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  if (slot >= slots) return;  // the whole warp
  const int64_t row = rows[slot];
  float dots = 0;
  for (int64_t d = threadIdx.x; row >= 0 && d < shape.columns; d += kWarp) {
    dots += to_float(dy[slot / K * shape.y_stride + d]) * to_float(x[row * shape.x_stride + d]);
  }
  dots = engine::warp_reduce(dots, engine::Sum{});
  if (threadIdx.x == 0) dweights[slot] = dots;
}

}  // namespace

void permute(const Permute& a) {
  with_storage({a.y_ND, a.x_TD}, [&]<class X>(X) {
    launch(permute_kernel<X>, blocks_for(a.y_ND.rows(), 1), threads_for_row(a.y_ND.columns()), 0, device_stream(),
           data_of<X>(a.y_ND), data_of<X>(a.x_TD), a.rows, a.scales,
           Shape{a.y_ND.columns(), a.y_ND.row_stride, a.x_TD.row_stride});
  });
}

void unpermute(const Unpermute& a) {
  with_storage({a.y_TD, a.x_ND}, [&]<class X>(X) {
    launch(unpermute_kernel<X>, blocks_for(a.y_TD.rows(), 1), threads_for_row(a.y_TD.columns()), 0, device_stream(),
           data_of<X>(a.y_TD), data_of<X>(a.x_ND), a.rows_TK, a.weights_TK, a.num_slots,
           Shape{a.y_TD.columns(), a.y_TD.row_stride, a.x_ND.row_stride});
  });
}

void unpermute_weights_backward(const UnpermuteWeightsBackward& a) {
  constexpr int64_t kSlotsPerBlock = 4;
  with_storage({a.dy_TD, a.x_ND}, [&]<class X>(X) {
    const int64_t slots = a.dweights_TK.num_elements();
    launch(weights_kernel<X>, blocks_for(slots, kSlotsPerBlock), dim3(kWarp, kSlotsPerBlock), 0, device_stream(),
           a.dweights_TK.f32(), data_of<X>(a.dy_TD), data_of<X>(a.x_ND), a.rows_TK, slots, a.dweights_TK.columns(),
           Shape{a.dy_TD.columns(), a.dy_TD.row_stride, a.x_ND.row_stride});
  });
}

}  // namespace moe::cuda
