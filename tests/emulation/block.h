// Runs the blocks of a grid one after another, each with one fiber per thread.
#pragma once

#include <cuda_runtime.h>

#include <string>

#include "tests/emulation/emulation.h"

namespace emulation {

void run_grid(dim3 grid, dim3 block, size_t shared_bytes, uint32_t operation, const std::function<void()>& body);

// Keeps a fault for take_faults() and the runtime's error.
void fault(const std::string& what, const char* file, int line);
const char* first_fault();  // null: none

uint64_t next_random(uint64_t& state);

// Which emulated thread runs, for the access checker. Accesses of one block are ordered by its barriers, those of
// one warp also by its collectives; both are counted.
struct Where {
  uint32_t operation, block, thread, block_barriers, warp_barriers;
};
const Where* current_thread();  // null: host code runs

struct Range {
  const char* begin = nullptr;
  size_t bytes = 0;
  bool holds(const void* p) const { return p >= begin && p < begin + bytes; }
};
Range shared_memory();
Range device_memory();

// The access checker, where it is linked in.
class Observer {
 public:
  virtual void memory_begins(const void* p, size_t bytes) = 0;
  virtual void memory_ends(const void* p, size_t bytes) = 0;
  virtual void shared_begins(const void* p, size_t bytes) = 0;
  virtual void block_begins() = 0;
  virtual void atomic(const void* p, size_t bytes, void* caller) = 0;
  virtual void whole(const void* p, size_t bytes, bool write) = 0;  // by a copy or a library's function

 protected:
  ~Observer() = default;
};
extern Observer* observer;

}  // namespace emulation
