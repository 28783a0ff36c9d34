// Readback: numbers that ops leave on a device for the host, fetched together: one copy and one wait, however many ops.
// What is queued between start() and wait() runs while the numbers come.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/core/buffer.h"
#include "engine/core/device.h"
#include "engine/core/error.h"

namespace engine {

class Readback {
 public:
  explicit Readback(Device device) : device_(device) {}

  // Where an op writes `count` numbers, on the device; on the CPU the host's own memory. The first call after start()
  // forgets what was there.
  template <class T>
  T* place(int64_t count) {
    return reinterpret_cast<T*>(place_bytes(count * static_cast<int64_t>(sizeof(T))));
  }
  void start();
  void wait();
  void fetch() { start(), wait(); }
  // Of place(), after wait(): the numbers in host memory, until the next place().
  template <class T>
  const T* host(const T* there) const {
    return reinterpret_cast<const T*>(host_bytes(reinterpret_cast<const char*>(there)));
  }

 private:
  struct Part {
    Buffer there;
    PinnedCopy here;
    int64_t used = 0;
  };
  char* place_bytes(int64_t bytes);
  const char* host_bytes(const char* there) const;

  Device device_;
  std::vector<Part> parts_;  // on a GPU one, once it is known how much there is
  size_t next_ = 0;          // the part that is being filled
  bool started_ = false;
};

}  // namespace engine
