// Memory whose size is known only while a step runs (rows received by experts): it grows and never shrinks.
#pragma once

#include <algorithm>
#include <cstdint>

#include "engine/core/buffer.h"

namespace engine {

class GrowingBuffer {
 public:
  explicit GrowingBuffer(Device device = Device::cpu) : device_(device) {}

  // A tensor of rows x columns; the content is undefined. Valid until the next call that grows.
  Tensor view(DType dtype, int64_t rows, int64_t columns) {
    const int64_t bytes = rows * columns * dtype_bytes(dtype);
    if (bytes > memory_.bytes()) {
      if (memory_.bytes() > 0) ++growths_;
      memory_ = Buffer();
      memory_ = Buffer(std::max(bytes, last_bytes_ + last_bytes_ / 4), device_);
      last_bytes_ = memory_.bytes();
    }
    return Tensor(memory_.data(), dtype, {rows, columns}, device_);
  }
  // Memory for the first call.
  void reserve(DType dtype, int64_t rows, int64_t columns) { view(dtype, rows, columns); }
  double* f64() const { return memory_.f64(); }  // of the last view()
  Device device() const { return device_; }
  int64_t bytes() const { return memory_.bytes(); }
  int64_t growths() const { return growths_; }

 private:
  Device device_;
  Buffer memory_;
  int64_t last_bytes_ = 0, growths_ = 0;
};

}  // namespace engine
