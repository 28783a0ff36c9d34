#include "engine/core/cuda_reduce.cuh"
#include "engine/ops/cross_entropy.h"

namespace engine::ops::cuda {
namespace {

// One block per row; dlogits may be logits' memory or null. Targets cannot be checked by the host here: one outside
// of the vocabulary gives NaN.
template <class X, class L>
__global__ void cross_entropy_kernel(float* losses, X* dlogits, const L* logits, const int32_t* targets, int64_t V,
                                     float scale) {
  const int64_t t = blockIdx.x, target = targets[t];
  const L* row = logits + t * V;
  X* drow = dlogits == nullptr ? nullptr : dlogits + t * V;
  if (target == -1) {  // the whole block
    if (threadIdx.x == 0) losses[t] = 0;
    for (int64_t v = threadIdx.x; drow != nullptr && v < V; v += blockDim.x) drow[v] = from_float<X>(0.0f);
    return;
  }
  const bool inside = target >= 0 && target < V;
  const float target_logit = inside ? to_float(row[target]) : __builtin_nanf("");
  float largest = Max::kNeutral;
  for (int64_t v = threadIdx.x; v < V; v += blockDim.x) largest = fmaxf(largest, to_float(row[v]));
  largest = block_reduce(largest, Max{});
  float sum = 0;
  for (int64_t v = threadIdx.x; v < V; v += blockDim.x) sum += expf(to_float(row[v]) - largest);
  sum = block_reduce(sum, Sum{});
  if (threadIdx.x == 0) losses[t] = logf(sum) + largest - target_logit;
  if (drow == nullptr) return;
  const float factor = inside ? scale / sum : target_logit;
  for (int64_t v = threadIdx.x; v < V; v += blockDim.x) {
    const float p = expf(to_float(row[v]) - largest) * factor;
    drow[v] = from_float<X>(v == target ? p - scale : p);
  }
}

}  // namespace

void cross_entropy(const CrossEntropy& a) {
  const int64_t T = a.logits_TV.rows(), V = a.logits_TV.columns();
  with_storage({a.logits_TV}, [&]<class L>(L) {
    with_storage({a.dlogits_TV ? ConstTensor(a.dlogits_TV) : a.logits_TV}, [&]<class X>(X) {
      launch(cross_entropy_kernel<X, L>, blocks_for(T, 1), threads_for_row(V), 0, device_stream(), a.losses_T.f32(),
             data_of<X>(a.dlogits_TV), data_of<L>(a.logits_TV), a.targets_T.i32(), V, a.scale);
    });
  });
}

}  // namespace engine::ops::cuda
