#include "engine/core/cuda_launch.cuh"
#include "engine/ops/residual_add.h"

namespace engine::ops::cuda {
namespace {

constexpr unsigned kThreads = 256;

template <class X, class Y>
__global__ void add_kernel(X* x, const Y* y, int64_t count) {
  const int64_t i = global_thread();
  if (i < count) x[i] = from_float<X>(to_float(x[i]) + to_float(y[i]));
}

}  // namespace

void residual_add(const ResidualAdd& a) {
  with_storage({a.x_TD}, [&]<class X>(X) {
    with_storage({a.y_TD}, [&]<class Y>(Y) {
      const int64_t count = a.x_TD.num_elements();
      launch(add_kernel<X, Y>, blocks_for(count, kThreads), kThreads, 0, device_stream(), data_of<X>(a.x_TD),
             data_of<Y>(a.y_TD), count);
    });
  });
}

}  // namespace engine::ops::cuda
