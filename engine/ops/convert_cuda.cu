#include "engine/core/cuda_launch.cuh"
#include "engine/ops/convert.h"

namespace engine::ops::cuda {
namespace {

constexpr unsigned kThreads = 256;

template <class Y, class X>
__global__ void convert_kernel(Y* y, const X* x, int64_t count) {
  const int64_t i = global_thread();
  if (i < count) y[i] = from_float<Y>(to_float(x[i]));
}

}  // namespace

void convert(const Convert& a) {
  with_storage({a.x_TD}, [&]<class X>(X) {
    with_storage({a.y_TD}, [&]<class Y>(Y) {
      const int64_t count = a.x_TD.num_elements();
      launch(convert_kernel<Y, X>, blocks_for(count, kThreads), kThreads, 0, device_stream(), data_of<Y>(a.y_TD),
             data_of<X>(a.x_TD), count);
    });
  });
}

}  // namespace engine::ops::cuda
