#include <atomic>
#include <utility>

#include "engine/core/cuda_context.h"

namespace engine {
namespace {

// of the process
int chosen = 0;
std::atomic<int64_t> memory_changes{0};

}  // namespace

CudaContext& cuda_context() {
  thread_local CudaContext* instance = nullptr;
  if (instance == nullptr) {
    require_device();
    instance = new CudaContext;
    CUDA_CHECK(cudaSetDevice(chosen));
    instance->own.create();
    instance->outbox.create();
  }
  return *instance;
}

void* CudaQueue::reserve_scratch(int64_t bytes) {
  if (bytes > scratch_bytes) {
    device_free(scratch);  // waits for who still uses it
    scratch = nullptr;
    scratch_bytes = 0;
    scratch = device_allocate(bytes);
    scratch_bytes = bytes;
  }
  return scratch;
}

namespace {

struct MemoryInfo {
  size_t free, total;
};
MemoryInfo memory_info() {
  cuda_context();  // the thread's device
  MemoryInfo info{};
  CUDA_CHECK(cudaMemGetInfo(&info.free, &info.total));
  return info;
}

}  // namespace

std::string why_no_device() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaSuccess && count > 0) return "";
  const std::string reason = status == cudaSuccess ? "the driver knows no device" : cudaGetErrorString(status);
  return str("there is no usable GPU here (", reason, "); check nvidia-smi, or use --device cpu");
}

void require_device() {
  const std::string reason = why_no_device();
  if (!reason.empty()) throw Error(ExitCode::environment, reason);
}

int device_count() {
  require_device();
  int count = 0;
  CUDA_CHECK(cudaGetDeviceCount(&count));
  return count;
}

void choose_device(int index) {
  chosen = index;
}

std::string device_bus_id() {
  char id[32] = {};
  CUDA_CHECK(cudaDeviceGetPCIBusId(id, sizeof(id), chosen));
  return id;
}

std::string device_name() {
  cudaDeviceProp properties;
  CUDA_CHECK(cudaGetDeviceProperties(&properties, chosen));
#if defined(SWITCHYARD_EMULATED)
  return str(properties.name, " (no GPU)");
#else
  return str(properties.name, ", ", properties.totalGlobalMem >> 30, " GiB");
#endif
}

std::string device_driver() {
  int version = 0;
  CUDA_CHECK(cudaDriverGetVersion(&version));
  return str(version / 1000, ".", version / 10 % 100);
}

DeviceStream device_stream() {
  return cuda_context().current->stream;
}

void device_synchronize() {
  wait_for_device([](cudaStream_t stream) { CUDA_CHECK(cudaStreamSynchronize(stream)); });
}

DeviceWaits device_waits() {
  return cuda_context().waits;
}

void set_stream_check(std::function<void()> check) {
  cuda_context().check = std::move(check);
}

int64_t device_memory_used() {
  const auto [free, total] = memory_info();
  return static_cast<int64_t>(total - free);
}

int64_t device_memory_free() {
  return static_cast<int64_t>(memory_info().free);
}

int64_t device_memory_changes() {
  return memory_changes;
}

void* device_allocate(int64_t bytes) {
  CudaContext& here = cuda_context();
  ENSURE(here.recorded_copies == nullptr, "memory is taken while a graph is recorded");
  ++memory_changes;
  void* memory = nullptr;
  const cudaError_t status = cudaMalloc(&memory, static_cast<size_t>(bytes));
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // said here; else the next who asks for an error is told of this one
    throw Error(ExitCode::environment, str("out of memory: the device refused ", bytes >> 20,
                                           " MiB; use a smaller model, batch or train.micro_batch"));
  }
  CUDA_CHECK(status);
  device_fill(memory, 0, bytes);
  return memory;
}

void device_free(void* memory) noexcept {
  ++memory_changes;
  cudaFree(memory);  // what it could report was reported by the calls before
}

void* device_scratch(int64_t bytes) {
  return cuda_context().current->reserve_scratch(bytes);
}

}  // namespace engine
