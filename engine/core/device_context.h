// What a thread has of its device; for the files that implement device.h and graph.h.
#pragma once

#include <cuda_runtime.h>

#include <functional>
#include <vector>

#include "engine/core/device.h"

namespace engine {

// Where copies to the device leave from. Of memory that is not pinned the driver may wait for the stream before it
// takes a copy. One half is filled while copies of the other may still be under way.
struct Outbox {
  static constexpr int64_t kHalf = int64_t{4} << 20, kAlign = 64;
  char* memory = nullptr;
  cudaEvent_t left[2] = {};  // when the last copy has
  int half = 0;
  int64_t used = 0;
};

// Lives as long as the process: when it ends, the driver may be gone before we are.
struct DeviceContext {
  cudaStream_t stream = nullptr;
  Outbox outbox;
  std::vector<void*>* recorded_copies = nullptr;  // while a graph is recorded: where its copies leave from
  void* scratch = nullptr;
  int64_t scratch_bytes = 0;
  std::function<void()> check;
  DeviceWaits waits;
};

// Of the calling thread.
DeviceContext& device_context();

}  // namespace engine
