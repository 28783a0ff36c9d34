#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <utility>

#include "engine/core/cuda_check.h"
#include "engine/core/device_context.h"

namespace engine {
namespace {

// of the process
int chosen = 0;
std::atomic<int64_t> memory_changes{0};

}  // namespace

DeviceContext& device_context() {
  thread_local DeviceContext* instance = nullptr;
  if (instance == nullptr) {
    require_device();
    instance = new DeviceContext;
    CUDA_CHECK(cudaSetDevice(chosen));
    CUDA_CHECK(cudaStreamCreateWithFlags(&instance->stream, cudaStreamNonBlocking));
    void* memory = nullptr;
    CUDA_CHECK(cudaMallocHost(&memory, 2 * Outbox::kHalf));
    instance->outbox.memory = static_cast<char*>(memory);
    for (cudaEvent_t& left : instance->outbox.left) {
      CUDA_CHECK(cudaEventCreateWithFlags(&left, cudaEventDisableTiming));
    }
  }
  return *instance;
}

namespace {

// What waits is counted, and what came is checked before anybody reads it.
template <class Wait>
void wait_for_device(Wait wait) {
  DeviceContext& here = device_context();
  ENSURE(here.recorded_copies == nullptr, "the host waits while a graph is recorded");
  const auto start = std::chrono::steady_clock::now();
  wait(here.stream);
  ++here.waits.count;
  here.waits.seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (here.check) here.check();
}

// To the half that was filled before this one; its copies have mostly left.
void turn_over(Outbox& outbox) {
  CUDA_CHECK(cudaEventRecord(outbox.left[outbox.half], device_stream()));
  outbox.half = 1 - outbox.half;
  outbox.used = 0;
  const cudaEvent_t left = outbox.left[outbox.half];
  if (cudaEventQuery(left) == cudaSuccess) return;
  wait_for_device([&](cudaStream_t) { CUDA_CHECK(cudaEventSynchronize(left)); });
}

// The graph keeps what it copies.
void record_copy(DeviceContext& context, void* to, const void* from, int64_t bytes) {
  if (bytes == 0) return;
  void* kept = nullptr;
  CUDA_CHECK(cudaMallocHost(&kept, static_cast<size_t>(bytes)));
  context.recorded_copies->push_back(kept);
  std::memcpy(kept, from, static_cast<size_t>(bytes));
  CUDA_CHECK(cudaMemcpyAsync(to, kept, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, context.stream));
}

struct MemoryInfo {
  size_t free, total;
};
MemoryInfo memory_info() {
  device_context();  // the thread's device
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
  return device_context().stream;
}

void device_synchronize() {
  wait_for_device([](cudaStream_t stream) { CUDA_CHECK(cudaStreamSynchronize(stream)); });
}

DeviceWaits device_waits() {
  return device_context().waits;
}

void set_stream_check(std::function<void()> check) {
  device_context().check = std::move(check);
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
  DeviceContext& here = device_context();
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

void copy_to_device(void* to, const void* from, int64_t bytes) {
  DeviceContext& here = device_context();
  if (here.recorded_copies != nullptr) return record_copy(here, to, from, bytes);
  Outbox& outbox = here.outbox;
  for (int64_t begin = 0, count; begin < bytes; begin += count) {
    if (outbox.used == Outbox::kHalf) turn_over(outbox);
    count = std::min(bytes - begin, Outbox::kHalf - outbox.used);
    char* place = outbox.memory + outbox.half * Outbox::kHalf + outbox.used;
    std::memcpy(place, static_cast<const char*>(from) + begin, static_cast<size_t>(count));
    CUDA_CHECK(cudaMemcpyAsync(static_cast<char*>(to) + begin, place, static_cast<size_t>(count),
                               cudaMemcpyHostToDevice, device_stream()));
    outbox.used += (count + Outbox::kAlign - 1) / Outbox::kAlign * Outbox::kAlign;
  }
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
  device_context();  // the thread's device
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
  DeviceContext& c = device_context();
  if (bytes > c.scratch_bytes) {
    device_free(c.scratch);  // waits for who still uses it
    c.scratch = nullptr;
    c.scratch = device_allocate(bytes);
    c.scratch_bytes = bytes;
  }
  return c.scratch;
}

}  // namespace engine
