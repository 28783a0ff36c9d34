#include <algorithm>
#include <cstring>
#include <utility>

#include "engine/core/cuda_context.h"

namespace engine {

void Outbox::create() {
  void* pinned = nullptr;
  CUDA_CHECK(cudaMallocHost(&pinned, 2 * kHalf));
  memory = static_cast<char*>(pinned);
  for (cudaEvent_t& event : left) CUDA_CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
}

namespace {

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
void record_copy(CudaContext& context, void* to, const void* from, int64_t bytes) {
  if (bytes == 0) return;
  void* kept = nullptr;
  CUDA_CHECK(cudaMallocHost(&kept, static_cast<size_t>(bytes)));
  context.recorded_copies->push_back(kept);
  std::memcpy(kept, from, static_cast<size_t>(bytes));
  CUDA_CHECK(cudaMemcpyAsync(to, kept, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, device_stream()));
}

}  // namespace

void copy_to_device(void* to, const void* from, int64_t bytes) {
  CudaContext& here = cuda_context();
  ENSURE(here.current == &here.own, "a copy to the device leaves from a side stream");
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
  cuda_context();  // the thread's device
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

}  // namespace engine
