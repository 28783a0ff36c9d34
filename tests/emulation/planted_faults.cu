#include "tests/emulation/planted_faults.h"

#include "engine/core/buffer.h"
#include "engine/core/cuda_reduce.cuh"

namespace planted {
namespace {

using engine::launch;

constexpr int kThreads = 256;

__global__ void correct(float* y, const float* x) {
  SHARED(float, s, [kThreads]);
  s[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  const float sum = engine::block_reduce(x[threadIdx.x], engine::Sum{});
  const float squares = engine::block_reduce(x[threadIdx.x] * x[threadIdx.x], engine::Sum{});
  y[threadIdx.x] = s[kThreads - 1 - threadIdx.x] + sum * squares;
}

__global__ void missing_barrier(float* y, const float* x) {
  SHARED(float, s, [kThreads]);
  s[threadIdx.x] = x[threadIdx.x];
  y[threadIdx.x] = s[kThreads - 1 - threadIdx.x];
}

__global__ void missing_second_barrier(float* y, const float* x) {
  SHARED(float, s, [kThreads]);
  float sum = 0;
  for (unsigned i = 0; i < 4; ++i) {
    s[threadIdx.x] = x[(threadIdx.x + i) % kThreads];
    __syncthreads();
    sum += s[(threadIdx.x + 37) % kThreads];
  }
  y[threadIdx.x] = sum;
}

__global__ void missing_syncwarp(float* y, const float* x) {
  SHARED(float, s, [kThreads]);
  s[threadIdx.x] = x[threadIdx.x];
  y[threadIdx.x] = s[threadIdx.x ^ 1];
}

__global__ void divergent_barrier(float* y, const float* x) {
  if (threadIdx.x < 16) __syncthreads();
  y[threadIdx.x] = x[threadIdx.x];
}

__global__ void early_exit(float* y, const float* x) {
  y[threadIdx.x] = x[threadIdx.x];
  if (threadIdx.x >= 200) return;
  __syncthreads();
  y[threadIdx.x] += 1;
}

__global__ void absent_lanes(float* y, const float* x) {
  float value = x[threadIdx.x];
  if (threadIdx.x < 16) value = __shfl_xor_sync(engine::kAllLanes, value, 1);
  y[threadIdx.x] = value;
}

__global__ void lane_outside_mask(float* y, const float* x) {
  float value = x[threadIdx.x];
  if (threadIdx.x < 16) value = __shfl_sync(0xffffu, value, 20);
  y[threadIdx.x] = value;
}

__global__ void race_in_block(float* y, const float* x) {
  SHARED(float, n, [1]);
  if (threadIdx.x == 0) n[0] = 0;
  __syncthreads();
  n[0] += x[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = n[0];
}

__global__ void race_between_blocks(float* y, const float* x) {
  if (blockIdx.x == 0) {
    y[threadIdx.x] = x[threadIdx.x];
  } else {
    y[kThreads + threadIdx.x] = y[threadIdx.x];
  }
}

__global__ void order_of_atomics(float* y, const float* x) {
  if (threadIdx.x == 0 && blockIdx.x == 0) atomicAdd(y, 0.0f);
  atomicAdd(y + 1, x[threadIdx.x] * static_cast<float>(1 + 1000 * (threadIdx.x % 7)));
}

__global__ void index_off_by_one(float* y, const float* x, int count) {
  const int i = static_cast<int>(threadIdx.x);
  if (i <= count) y[i] = x[i % kThreads];
}

__global__ void shared_off_by_one(float* y, const float* x) {
  SHARED(float, s, [kThreads]);
  s[threadIdx.x + 1] = x[threadIdx.x];
  if (threadIdx.x == 0) s[0] = 0;
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x];
}

__global__ void never_written(float* y, const float* x) {
  SHARED(float, s, [kThreads]);
  if (threadIdx.x != 7) s[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x] > 0 ? 1.0f : 0.0f;
}

__global__ void add(float* y, const float* a, const float* b, float constant) {
  y[threadIdx.x] = a[threadIdx.x] + (b == nullptr ? 0.0f : b[threadIdx.x]) + constant;
}

std::vector<float> inputs() {
  std::vector<float> x(kThreads);
  for (int i = 0; i < kThreads; ++i) x[static_cast<size_t>(i)] = 1.0f / static_cast<float>(i + 3);
  return x;
}

}  // namespace

std::vector<float> run_kernel(const std::string& name) {
  const std::vector<float> host = inputs();
  const int64_t bytes = kThreads * 4;
  engine::Buffer x(bytes, engine::Device::cuda), y(2 * bytes, engine::Device::cuda);
  engine::Buffer filled(3 * bytes, engine::Device::cuda);  // so that what lies beyond y is allocated elsewhere
  engine::copy_to_device(x.data(), host.data(), bytes);
  cudaStream_t s = engine::device_stream();
  std::vector<float> result(2 * kThreads);
  auto run = [&](const char* kernel_name, auto kernel, unsigned blocks = 1) {
    if (name == kernel_name) launch(kernel, blocks, kThreads, 0, s, y.f32(), x.f32());
  };
  try {
    run("correct", correct);
    run("missing barrier", missing_barrier);
    run("missing second barrier", missing_second_barrier);
    run("missing syncwarp", missing_syncwarp);
    run("divergent barrier", divergent_barrier);
    run("early exit", early_exit);
    run("absent lanes", absent_lanes);
    run("lane outside of the mask", lane_outside_mask);
    run("race in a block", race_in_block);
    run("race between blocks", race_between_blocks, 2);
    run("order of atomics", order_of_atomics);
    run("shared index off by one", shared_off_by_one);
    run("never written", never_written);
    if (name == "index off by one") {
      launch(index_off_by_one, 1, kThreads, 0, s, y.f32() + kThreads + 1, x.f32(), kThreads - 1);
    }
    if (name == "host pointer") launch(correct, 1, kThreads, 0, s, y.f32(), host.data());
    engine::copy_to_host(result.data(), y.data(), 2 * bytes);
  } catch (const engine::Error&) {  // the fault; take_faults() has it
  }
  return result;
}

std::vector<float> run_streams(const std::string& mistake) {
  const int64_t bytes = kThreads * 4;
  std::vector<float> host = inputs(), result(kThreads, 0.0f);
  engine::Buffer x(bytes, engine::Device::cuda), y(bytes, engine::Device::cuda), z(bytes, engine::Device::cuda);
  cudaStream_t first = engine::device_stream(), second = nullptr;
  cudaEvent_t produced = nullptr, consumed = nullptr;
  float* pinned = nullptr;
  CUDA_CHECK(cudaStreamCreateWithFlags(&second, cudaStreamNonBlocking));
  CUDA_CHECK(cudaEventCreateWithFlags(&produced, cudaEventDisableTiming));
  CUDA_CHECK(cudaEventCreateWithFlags(&consumed, cudaEventDisableTiming));
  CUDA_CHECK(cudaMallocHost(reinterpret_cast<void**>(&pinned), bytes));
  std::memcpy(pinned, host.data(), bytes);
  engine::device_synchronize();
  try {
    CUDA_CHECK(cudaMemcpyAsync(x.data(), pinned, bytes, cudaMemcpyHostToDevice, first));
    if (mistake == "buffer reused before its copy") pinned[0] = 100;
    if (mistake == "event recorded too early") CUDA_CHECK(cudaEventRecord(produced, first));
    launch(add, 1, kThreads, 0, first, y.f32(), x.f32(), nullptr, 5.0f);
    if (mistake != "event recorded too early") CUDA_CHECK(cudaEventRecord(produced, first));
    if (mistake != "missing stream wait") CUDA_CHECK(cudaStreamWaitEvent(second, produced));
    launch(add, 1, kThreads, 0, second, z.f32(), y.f32(), x.f32(), 0.0f);
    CUDA_CHECK(cudaEventRecord(consumed, second));
    if (mistake != "overwritten while read") CUDA_CHECK(cudaStreamWaitEvent(first, consumed));
    launch(add, 1, kThreads, 0, first, x.f32(), y.f32(), nullptr, 1000.0f);
    CUDA_CHECK(cudaMemcpyAsync(pinned, z.data(), bytes, cudaMemcpyDeviceToHost, second));
    if (mistake == "other stream synchronised") {
      CUDA_CHECK(cudaStreamSynchronize(first));
    } else if (mistake != "read before the synchronisation") {
      CUDA_CHECK(cudaStreamSynchronize(second));
    }
    std::memcpy(result.data(), pinned, bytes);
    CUDA_CHECK(cudaDeviceSynchronize());
  } catch (const engine::Error&) {
  }
  cudaFreeHost(pinned);
  cudaEventDestroy(produced);
  cudaEventDestroy(consumed);
  cudaStreamDestroy(second);
  return result;
}

float read_device_memory() {
  engine::Buffer x(64, engine::Device::cuda);
  engine::device_synchronize();
  return x.f32()[3];
}

}  // namespace planted
