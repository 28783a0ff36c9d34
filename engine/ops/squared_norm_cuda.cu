#include "engine/core/cuda_launch.cuh"
#include "engine/ops/squared_norm.h"

namespace engine::ops::cuda {
namespace {

constexpr int kLanes = 16;
constexpr unsigned kThreads = 128;

// Sixteen threads per block of elements: the lanes of the header, so the bits are those of the CPU.
template <class X>
__global__ void squared_norm_kernel(double* block_sums, const X* x, int64_t count, int64_t block) {
  SHARED(double, lanes, [kThreads]);
  const int64_t b = global_thread() / kLanes;
  const int lane = static_cast<int>(threadIdx.x % kLanes);
  const int64_t end = (b + 1) * block < count ? (b + 1) * block : count;
  double sum = 0;
  for (int64_t i = b * block + lane; i < end; i += kLanes) {
    const double value = static_cast<double>(static_cast<float>(x[i]));
    sum += value * value;
  }
  for (int half = kLanes / 2; half > 0; half /= 2) {
    lanes[threadIdx.x] = sum;
    __syncthreads();
    if (lane < half) sum = sum + lanes[threadIdx.x + static_cast<unsigned>(half)];
    __syncthreads();
  }
  if (lane == 0 && b * block < count) block_sums[b] = sum;
}

}  // namespace

void squared_norm(const SquaredNorm& a) {
  const int64_t count = a.x_N.num_elements(), blocks = (count + a.block - 1) / a.block;
  const auto sum_squares = [&](auto kernel, const auto* x) {
    launch(kernel, blocks_for(blocks * kLanes, kThreads), kThreads, 0, device_stream(), a.block_sums, x, count,
           a.block);
  };
  a.x_N.dtype == DType::f64 ? sum_squares(squared_norm_kernel<double>, a.x_N.f64())
                            : sum_squares(squared_norm_kernel<float>, a.x_N.f32());
}

}  // namespace engine::ops::cuda
