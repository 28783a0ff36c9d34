// What a thread has of its device; for the files that implement device.h and graph.h.
#pragma once

#include <cuda_runtime.h>

#include <chrono>
#include <functional>
#include <vector>

#include "engine/core/cuda_check.h"
#include "engine/core/device.h"

namespace engine {

// A stream, the workspace of what is queued there, and the event by which others wait for it.
struct CudaQueue {
  void create() {
    CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    CUDA_CHECK(cudaEventCreateWithFlags(&reached, cudaEventDisableTiming));
  }
  void* reserve_scratch(int64_t bytes);  // at least so many
  cudaStream_t stream = nullptr;
  cudaEvent_t reached = nullptr;
  void* scratch = nullptr;
  int64_t scratch_bytes = 0;
};

// Where copies to the device leave from. Of memory that is not pinned the driver may wait for the stream before it
// takes a copy. One half is filled while copies of the other may still be under way.
struct Outbox {
  static constexpr int64_t kHalf = int64_t{4} << 20, kAlign = 64;
  void create();
  char* memory = nullptr;
  cudaEvent_t left[2] = {};  // when the last copy has
  int half = 0;
  int64_t used = 0;
};

// Lives as long as the process: when it ends, the driver may be gone before we are.
struct CudaContext {
  CudaQueue own, sides[DeviceFork::kStreams];
  CudaQueue* current = &own;
  Outbox outbox;
  std::vector<void*>* recorded_copies = nullptr;  // while a graph is recorded: where its copies leave from
  std::function<void()> check;
  DeviceWaits waits;
};

// Of the calling thread.
CudaContext& cuda_context();

// What waits is counted, and what came is checked before anybody reads it.
template <class Wait>
void wait_for_device(Wait wait) {
  CudaContext& here = cuda_context();
  ENSURE(here.recorded_copies == nullptr, "the host waits while a graph is recorded");
  ENSURE(here.current == &here.own, "a thread waits for its stream while a fork of it is not joined");
  const auto start = std::chrono::steady_clock::now();
  wait(here.own.stream);
  ++here.waits.count;
  here.waits.seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (here.check) here.check();
}

}  // namespace engine
