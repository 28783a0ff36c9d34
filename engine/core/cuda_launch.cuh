// launch(kernel, grid, block, shared_bytes, stream, args...): the only way kernels are started; shared memory; storage.
//
// Kernel files are compiled by nvcc, and for an emulated device by a C++ compiler, so they use nothing else:
//   SHARED(float, partial, [32]);        static shared memory
//   EXTERN_SHARED(float, rows);          the launch's shared_bytes
// All threads of a block reach every __syncthreads; collectives of a warp name their lanes; nothing spins on memory;
// no atomics on floats, and sums have one order.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <type_traits>

#include "engine/core/cuda_check.h"
#include "engine/core/device.h"
#include "engine/core/tensor.h"

#if defined(__CUDACC__)
#define SHARED(type, name, ...) __shared__ type name __VA_ARGS__
#define EXTERN_SHARED(type, name)                                        \
  extern __shared__ __align__(16) unsigned char dynamic_shared_memory[]; \
  type* name = reinterpret_cast<type*>(dynamic_shared_memory)
#else
#define SHARED(type, name, ...)         \
  static constexpr char name##_key = 0; \
  auto& name = emulation::shared<type __VA_ARGS__>(&name##_key)
#define EXTERN_SHARED(type, name) type* name = static_cast<type*>(emulation::dynamic_shared())
#endif

namespace engine {

// The kernel's parameters alone give the types, so arguments convert as in a call. A grid without blocks is no launch.
template <class... P>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, int64_t shared_bytes, DeviceStream stream,
            std::type_identity_t<P>... args) {
  if (grid.x == 0 || grid.y == 0) return;
  if (shared_bytes > 48 * 1024) {
    CUDA_CHECK(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)));
  }
#if defined(__CUDACC__)
  kernel<<<grid, block, static_cast<size_t>(shared_bytes), stream>>>(args...);
  CUDA_CHECK(cudaGetLastError());
#else
  (emulation::check_argument(args), ...);
  CUDA_CHECK(emulation::enqueue_kernel(reinterpret_cast<const void*>(kernel), grid, block,
                                       static_cast<size_t>(shared_bytes), stream,
                                       [kernel, kept = std::tuple<P...>(args...)] { std::apply(kernel, kept); }));
#endif
}

// Blocks that cover `count` things with `per_block` each.
inline unsigned blocks_for(int64_t count, int64_t per_block) {
  const int64_t blocks = (count + per_block - 1) / per_block;
  ENSURE(blocks <= 0x7fffffff, count, " rows or elements are too many for one launch");
  return static_cast<unsigned>(blocks);
}

// This thread's number in a grid of one dimension.
__device__ __forceinline__ int64_t global_thread() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

// Storage of activations is f32 or bf16; arithmetic is f32.
__device__ __forceinline__ float to_float(float x) {
  return x;
}
__device__ __forceinline__ float to_float(__nv_bfloat16 x) {
  return __bfloat162float(x);
}
template <class X>
__device__ __forceinline__ X from_float(float x) {
  if constexpr (std::is_same_v<X, float>) {
    return x;
  } else {
    return __float2bfloat16(x);
  }
}

template <class X>
X* data_of(const Tensor& tensor) {
  return static_cast<X*>(tensor.data);
}
template <class X>
const X* data_of(const ConstTensor& tensor) {
  return static_cast<const X*>(tensor.data);
}

// Calls body(X{}) with X the element type of the tensors, which must all have it.
template <class Body>
void with_storage(std::initializer_list<ConstTensor> tensors, Body body) {
  const DType dtype = tensors.begin()->dtype;
  for (const ConstTensor& t : tensors) {
    ENSURE(t.dtype == dtype || !t, "tensors of one op are stored as ", dtype_name(dtype), " and ", dtype_name(t.dtype));
  }
  if (dtype == DType::bf16) return body(__nv_bfloat16{});
  ENSURE(dtype == DType::f32, "activations are stored as f32 or bf16, not ", dtype_name(dtype));
  body(float{});
}

}  // namespace engine
