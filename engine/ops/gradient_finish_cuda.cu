#include "engine/core/cuda_launch.cuh"
#include "engine/ops/gradient_finish.h"

namespace engine::ops::cuda {
namespace {

constexpr unsigned kThreads = 256;

__global__ void finish_kernel(float* gradient, double* sum, int64_t count) {
  const int64_t i = global_thread();
  if (i >= count) return;
  gradient[i] = static_cast<float>(sum[i]);
  sum[i] = 0;
}

}  // namespace

void gradient_finish(const GradientFinish& a) {
  const int64_t count = a.gradient_N.num_elements();
  launch(finish_kernel, blocks_for(count, kThreads), kThreads, 0, device_stream(), a.gradient_N.f32(), a.sum_N, count);
}

}  // namespace engine::ops::cuda
