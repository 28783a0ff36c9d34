// Streams as queues of operations, for the runtime and the stand-ins of libraries.
#pragma once

#include <cuda_runtime.h>

#include "tests/emulation/block.h"

namespace emulation {

// Returns false while it cannot finish yet (an event that is not reached); where that is because another rank, which is
// a thread, has not made a call yet, it says so by expect_others(), and whoever waits for it waits for that rank.
void expect_others();
using Operation = std::function<bool()>;
void enqueue(cudaStream_t stream, const char* what, Operation run);
// While the calling thread records a graph: where what it queues goes; else null.
struct Recorded {
  const char* what;
  Operation run;
};
std::vector<Recorded>* recorded_operations();
void synchronize_all();

// Whether the order of streams, events and host waits puts one operation before the other; known from when they
// were queued, whatever order they ran in.
bool happens_before(uint32_t earlier, uint32_t later);
uint32_t current_operation();

// While one of these lives, memory is read and written by another operation: an operation of several ranks.
class AsOperation {
 public:
  explicit AsOperation(uint32_t operation);
  ~AsOperation();
  AsOperation(const AsOperation&) = delete;

 private:
  uint32_t before_;
};

// Device memory may only be touched while one of these lives; otherwise the page is protected, and host code that
// uses a device pointer ends the process with a message.
class DeviceAccess {
 public:
  DeviceAccess();
  ~DeviceAccess();
  DeviceAccess(const DeviceAccess&) = delete;
};

bool is_device(const void* p);
bool is_pinned(const void* p);
// A copy or a library's function reads or writes the whole range: checked against the allocations.
void device_read(const void* p, size_t bytes);
void device_written(const void* p, size_t bytes);

}  // namespace emulation
