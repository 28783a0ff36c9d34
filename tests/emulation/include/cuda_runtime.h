// The part of the CUDA runtime that the kernels and their callers use, carried out on the CPU.
//
// In the emulated build this header is found instead of the toolkit's. Threads of a block are fibers (block.h),
// streams are queues (stream.h). What is not here is not used; whoever needs more adds it.
#pragma once

#if defined(__CUDACC__)
#error "the emulation's headers must not be on nvcc's include path"
#endif

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <tuple>
#include <type_traits>

#define __global__
#define __device__
#define __forceinline__ inline __attribute__((always_inline))

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned x_size = 1, unsigned y_size = 1, unsigned z_size = 1) : x(x_size), y(y_size), z(z_size) {}
};

extern constinit uint3 threadIdx, blockIdx;  // of the fiber that runs
extern constinit dim3 blockDim, gridDim;

using cudaStream_t = struct CUstream_st*;
using cudaEvent_t = struct CUevent_st*;
using cudaGraph_t = struct CUgraph_st*;
using cudaGraphExec_t = struct CUgraphExec_st*;
enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorNotReady = 600,
  cudaErrorStreamCaptureUnsupported = 900,
  cudaErrorLaunchFailure = 719,  // a fault was found; cudaGetErrorString tells which
};

namespace emulation {

// ---- what a running thread may ask for ----
enum class Collective : unsigned char { sync, shuffle, shuffle_xor, block_sync };
uint64_t warp_collective(Collective kind, unsigned mask, uint64_t value, int argument, const char* file, int line);
void block_barrier(const char* file, int line);
void* dynamic_shared();
void* static_shared(const void* key, size_t size, size_t alignment);
void atomic_access(const void* address, size_t size);

template <class T>
T& shared(const void* key) {
  return *static_cast<T*>(static_shared(key, sizeof(T), alignof(T)));
}

template <class T>
T shuffle(Collective kind, unsigned mask, T value, int argument, const char* file, int line) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = warp_collective(kind, mask, bits, argument, file, line);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

// One fiber runs at a time, so plain code is atomic.
template <class T, class F>
__attribute__((no_sanitize("thread"))) T atomic_update(T* address, F update) {
  atomic_access(address, sizeof(T));
  const T old = *address;
  *address = update(old);
  return old;
}

// ---- what launch() asks for ----
void check_pointer_argument(const void* pointer);  // device or pinned memory, else a fault
template <class T>
void check_argument(const T& argument) {
  if constexpr (std::is_pointer_v<T>) check_pointer_argument(argument);
}
cudaError_t allow_dynamic_shared(const void* kernel, int bytes);
cudaError_t enqueue_kernel(const void* kernel, dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
                           std::function<void()> thread_body);

}  // namespace emulation

// ---- barriers, shuffles, atomics ----
#define EMULATION_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(EMULATION_HERE) {
  emulation::block_barrier(file, line);
}
inline void __syncwarp(unsigned mask = ~0u, EMULATION_HERE) {
  emulation::warp_collective(emulation::Collective::sync, mask, 0, 0, file, line);
}
template <class T>
T __shfl_sync(unsigned mask, T value, int lane, EMULATION_HERE) {
  return emulation::shuffle(emulation::Collective::shuffle, mask, value, lane, file, line);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, EMULATION_HERE) {
  return emulation::shuffle(emulation::Collective::shuffle_xor, mask, value, lanes, file, line);
}

inline float atomicAdd(float* address, float value) {
  return emulation::atomic_update(address, [value](float old) { return old + value; });
}
inline unsigned atomicMax(unsigned* address, unsigned value) {
  return emulation::atomic_update(address, [value](unsigned old) { return old > value ? old : value; });
}

// ---- arithmetic ----
inline unsigned __float_as_uint(float x) {
  return std::bit_cast<unsigned>(x);
}

// ---- the runtime ----
enum cudaMemcpyKind {
  cudaMemcpyHostToHost,
  cudaMemcpyHostToDevice,
  cudaMemcpyDeviceToHost,
  cudaMemcpyDeviceToDevice,
  cudaMemcpyDefault,
};
enum { cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
struct cudaDeviceProp {
  char name[256];
  size_t totalGlobalMem, sharedMemPerBlockOptin;
  int major, minor, multiProcessorCount;
};

cudaError_t cudaGetLastError();
const char* cudaGetErrorName(cudaError_t error);
const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaMemGetInfo(size_t* free, size_t* total);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaDeviceGetPCIBusId(char* id, int length, int device);
cudaError_t cudaDeviceSynchronize();
cudaError_t cudaMalloc(void** pointer, size_t bytes);
cudaError_t cudaFree(void* pointer);
cudaError_t cudaMallocHost(void** pointer, size_t bytes);
cudaError_t cudaFreeHost(void* pointer);
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemsetAsync(void* pointer, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags = 0);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);

enum cudaStreamCaptureMode { cudaStreamCaptureModeRelaxed = 2 };
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long flags = 0);
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable);

template <class... P>
cudaError_t cudaFuncSetAttribute(void (*kernel)(P...), cudaFuncAttribute, int bytes) {
  return emulation::allow_dynamic_shared(reinterpret_cast<const void*>(kernel), bytes);
}
