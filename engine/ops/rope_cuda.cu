#include "engine/core/cuda_launch.cuh"
#include "engine/ops/rope.h"

namespace engine::ops::cuda {
namespace {

constexpr unsigned kThreads = 256;

struct Shape {
  int64_t rows, row_stride, heads, pairs, positions;
};

// One thread per pair. Positions cannot be checked by the host here: one outside of the tables gives NaN.
template <class X>
__global__ void rope_kernel(X* x, const int32_t* positions, const float* cos, const float* sin, Shape shape,
                            bool interleave, float sign) {
  const int64_t i = global_thread();
  if (i >= shape.rows * shape.heads * shape.pairs) return;
  const int64_t pair = i % shape.pairs, head = i / shape.pairs % shape.heads, t = i / shape.pairs / shape.heads;
  const int64_t position = positions[t], step = interleave ? 2 : 1, apart = interleave ? 1 : shape.pairs;
  const bool inside = position >= 0 && position < shape.positions;
  const float c = inside ? cos[position * shape.pairs + pair] : __builtin_nanf("");
  const float s = inside ? sign * sin[position * shape.pairs + pair] : c;
  X* first = x + t * shape.row_stride + head * 2 * shape.pairs + pair * step;
  const float a = to_float(first[0]), b = to_float(first[apart]);
  first[0] = from_float<X>(a * c - b * s);
  first[apart] = from_float<X>(b * c + a * s);
}

}  // namespace

void rope(const Rope& a) {
  const Shape shape{a.x_THC.rows(), a.x_THC.row_stride, a.num_heads, a.head_dim / 2, a.cos_PC.rows()};
  with_storage({a.x_THC}, [&]<class X>(X) {
    launch(rope_kernel<X>, blocks_for(shape.rows * shape.heads * shape.pairs, kThreads), kThreads, 0, device_stream(),
           data_of<X>(a.x_THC), a.positions, a.cos_PC.f32(), a.sin_PC.f32(), shape, a.interleave,
           a.inverse ? -1.0f : 1.0f);
  });
}

}  // namespace engine::ops::cuda
