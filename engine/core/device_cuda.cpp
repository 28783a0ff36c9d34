#include <chrono>
#include <utility>

#include "engine/core/cuda_check.h"
#include "engine/core/device.h"

namespace engine {
namespace {

// Lives as long as the process: when it ends, the driver may be gone before we are.
struct Context {
  cudaStream_t stream = nullptr;
  void* scratch = nullptr;
  int64_t scratch_bytes = 0;
  std::function<void()> check;
  DeviceWaits waits;
};

int chosen = 0;  // of the process

Context& context() {
  thread_local Context* instance = nullptr;
  if (instance == nullptr) {
    require_device();
    instance = new Context;
    CUDA_CHECK(cudaSetDevice(chosen));
    CUDA_CHECK(cudaStreamCreateWithFlags(&instance->stream, cudaStreamNonBlocking));
  }
  return *instance;
}

// What waits is counted, and what came is checked before anybody reads it.
template <class Wait>
void wait_for_device(Wait wait) {
  Context& here = context();
  const auto start = std::chrono::steady_clock::now();
  wait(here.stream);
  ++here.waits.count;
  here.waits.seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (here.check) here.check();
}

struct MemoryInfo {
  size_t free, total;
};
MemoryInfo memory_info() {
  context();  // the thread's device
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
  return context().stream;
}

void device_synchronize() {
  wait_for_device([](cudaStream_t stream) { CUDA_CHECK(cudaStreamSynchronize(stream)); });
}

DeviceWaits device_waits() {
  return context().waits;
}

void set_stream_check(std::function<void()> check) {
  context().check = std::move(check);
}

int64_t device_memory_used() {
  const auto [free, total] = memory_info();
  return static_cast<int64_t>(total - free);
}

int64_t device_memory_free() {
  return static_cast<int64_t>(memory_info().free);
}

void* device_allocate(int64_t bytes) {
  context();  // the thread's device
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
  cudaFree(memory);  // what it could report was reported by the calls before
}

void copy_to_device(void* to, const void* from, int64_t bytes) {
  if (bytes == 0) return;
  CUDA_CHECK(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, device_stream()));
}

void copy_to_host(void* to, const void* from, int64_t bytes) {
  if (bytes == 0) return;
  CUDA_CHECK(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost, device_stream()));
  device_synchronize();
}

void device_copy(void* to, const void* from, int64_t bytes) {
  if (bytes == 0) return;
  CUDA_CHECK(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToDevice, device_stream()));
}

void device_fill(void* memory, int byte, int64_t bytes) {
  if (bytes == 0) return;
  CUDA_CHECK(cudaMemsetAsync(memory, byte, static_cast<size_t>(bytes), device_stream()));
}

PinnedCopy::PinnedCopy(PinnedCopy&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), copied_(std::exchange(other.copied_, nullptr)) {}

PinnedCopy::~PinnedCopy() {
  if (copied_ != nullptr) cudaEventDestroy(copied_);
  if (data_ != nullptr) cudaFreeHost(data_);
}

void PinnedCopy::reserve(int64_t bytes) {
  ENSURE(data_ == nullptr, "the memory of a copy does not grow");
  context();  // the thread's device
  void* memory = nullptr;
  CUDA_CHECK(cudaMallocHost(&memory, static_cast<size_t>(bytes)));
  data_ = static_cast<char*>(memory);
  CUDA_CHECK(cudaEventCreateWithFlags(&copied_, cudaEventDisableTiming));
}

void PinnedCopy::start(const void* from, int64_t bytes) {
  if (bytes == 0) return;
  CUDA_CHECK(cudaMemcpyAsync(data_, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost, device_stream()));
  CUDA_CHECK(cudaEventRecord(copied_, device_stream()));
}

void PinnedCopy::wait() {
  wait_for_device([this](cudaStream_t) { CUDA_CHECK(cudaEventSynchronize(copied_)); });
}

void* device_scratch(int64_t bytes) {
  Context& c = context();
  if (bytes > c.scratch_bytes) {
    device_free(c.scratch);  // waits for who still uses it
    c.scratch = nullptr;
    c.scratch = device_allocate(bytes);
    c.scratch_bytes = bytes;
  }
  return c.scratch;
}

}  // namespace engine
