#include "engine/core/cuda_launch.cuh"
#include "engine/ops/swiglu.h"

namespace engine::ops::cuda {
namespace {

constexpr unsigned kThreads = 256;

template <class X>
__global__ void forward_kernel(X* y, const X* gate, const X* up, int64_t count) {
  const int64_t i = global_thread();
  if (i >= count) return;
  const float g = to_float(gate[i]);
  y[i] = from_float<X>(g / (1.0f + expf(-g)) * to_float(up[i]));
}

// dgate may be gate's memory and dup up's.
template <class X>
__global__ void backward_kernel(X* dgate, X* dup, const X* dy, const X* gate, const X* up, int64_t count) {
  const int64_t i = global_thread();
  if (i >= count) return;
  const float g = to_float(gate[i]), u = to_float(up[i]), d = to_float(dy[i]);
  const float s = 1.0f / (1.0f + expf(-g));
  dgate[i] = from_float<X>(d * u * (s * (1.0f + g * (1.0f - s))));
  dup[i] = from_float<X>(d * (g * s));
}

}  // namespace

void swiglu_forward(const SwigluForward& a) {
  with_storage({a.y_RF, a.gate_RF, a.up_RF}, [&]<class X>(X) {
    const int64_t count = a.y_RF.num_elements();
    launch(forward_kernel<X>, blocks_for(count, kThreads), kThreads, 0, device_stream(), data_of<X>(a.y_RF),
           data_of<X>(a.gate_RF), data_of<X>(a.up_RF), count);
  });
}

void swiglu_backward(const SwigluBackward& a) {
  with_storage({a.dy_RF, a.dgate_RF, a.dup_RF, a.gate_RF, a.up_RF}, [&]<class X>(X) {
    const int64_t count = a.dy_RF.num_elements();
    launch(backward_kernel<X>, blocks_for(count, kThreads), kThreads, 0, device_stream(), data_of<X>(a.dgate_RF),
           data_of<X>(a.dup_RF), data_of<X>(a.dy_RF), data_of<X>(a.gate_RF), data_of<X>(a.up_RF), count);
  });
}

}  // namespace engine::ops::cuda
