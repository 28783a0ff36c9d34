#include "engine/core/cuda_reduce.cuh"
#include "engine/ops/adamw.h"

namespace engine::ops::cuda {
namespace {

constexpr unsigned kThreads = 256;
static_assert(kChangedBlock % kThreads == 0);

struct Factors {
  float clip, keep, beta1, beta2, rest1, rest2, rate, root, eps;
};

template <class G>
__global__ void adamw_kernel(float* weight, float* m, float* v, G* gradient, int64_t count, Factors f,
                             uint32_t* changed) {
  const int64_t i = global_thread();
  float differs = 0;
  if (i < count) {
    const float g = static_cast<float>(gradient[i]) * f.clip;
    gradient[i] = 0;
    const float first = f.beta1 * m[i] + f.rest1 * g, second = f.beta2 * v[i] + f.rest2 * (g * g);
    const float before = weight[i], after = before * f.keep - f.rate * (first / (sqrtf(second) / f.root + f.eps));
    m[i] = first;
    v[i] = second;
    weight[i] = after;
    differs = __float_as_uint(before) != __float_as_uint(after) ? 1.0f : 0.0f;
  }
  if (changed == nullptr) return;
  differs = block_reduce(differs, Max());
  if (threadIdx.x == 0 && differs != 0) atomicMax(changed + blockIdx.x * kThreads / kChangedBlock, 1u);
}

}  // namespace

void adamw(const AdamW& a) {
  const int64_t count = a.weight_N.num_elements();
  const Factors f{.clip = a.clip,
                  .keep = 1.0f - a.lr * a.weight_decay,
                  .beta1 = a.beta1,
                  .beta2 = a.beta2,
                  .rest1 = 1.0f - a.beta1,
                  .rest2 = 1.0f - a.beta2,
                  .rate = a.lr / a.bias_correction1,
                  .root = sqrtf(a.bias_correction2),
                  .eps = a.eps};
  const auto update = [&](auto kernel, auto* gradient) {
    launch(kernel, blocks_for(count, kThreads), kThreads, 0, device_stream(), a.weight_N.f32(), a.m_N.f32(),
           a.v_N.f32(), gradient, count, f, a.changed);
  };
  a.gradient_N.dtype == DType::f64 ? update(adamw_kernel<double>, a.gradient_N.f64())
                                   : update(adamw_kernel<float>, a.gradient_N.f32());
}

}  // namespace engine::ops::cuda
