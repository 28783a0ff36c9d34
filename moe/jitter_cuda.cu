#include "engine/core/cuda_reduce.cuh"
#include "moe/jitter.h"

namespace moe::cuda {
namespace {

struct Draws {
  uint64_t key, step;
  float width;
};

// One block per row.
__global__ void jitter_kernel(float* x, int64_t stride, int64_t columns, int64_t first_row, Draws draws) {
  const int64_t t = blockIdx.x;
  for (int64_t d = threadIdx.x; d < columns; d += blockDim.x) {
    const uint64_t element = static_cast<uint64_t>((first_row + t) * columns + d);
    x[t * stride + d] *= jitter_factor(draws.key, draws.step, element, draws.width);
  }
}

}  // namespace

void jitter(const Jitter& a) {
  engine::launch(jitter_kernel, engine::blocks_for(a.x_TD.rows(), 1), engine::threads_for_row(a.x_TD.columns()), 0,
                 engine::device_stream(), a.x_TD.f32(), a.x_TD.row_stride, a.x_TD.columns(), a.first_row,
                 Draws{a.key, a.step, a.width});
}

}  // namespace moe::cuda
