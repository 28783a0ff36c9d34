// Owning memory: aligned, zeroed; on the CPU in huge pages where the system gives them, or on the thread's GPU.
#pragma once

#include <cstdint>
#include <memory>

#include "engine/core/tensor.h"

namespace engine {

class Buffer {
 public:
  Buffer() = default;
  // While one lives on a thread, new buffers of that thread have an address and a size but no memory: what a model
  // would take can be counted on a machine that does not have it.
  class Planning {
   public:
    Planning();
    ~Planning();
    Planning(const Planning&) = delete;
  };

  // Reads as zero. Throws Error(environment) when there is no memory.
  explicit Buffer(int64_t bytes, Device device = Device::cpu);
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Buffer();

  char* data() const { return data_; }
  int64_t bytes() const { return bytes_; }
  Device device() const { return device_; }
  float* f32() const { return reinterpret_cast<float*>(data_); }
  double* f64() const { return reinterpret_cast<double*>(data_); }

 private:
  void swap(Buffer& other) noexcept;
  char* data_ = nullptr;
  int64_t bytes_ = 0;
  Device device_ = Device::cpu;
  bool planned_ = false;  // an address only
};

// A tensor that owns its memory.
struct OwnedTensor {
  OwnedTensor(DType dtype, std::initializer_list<int64_t> dims, Device device = Device::cpu);
  operator Tensor() const { return view; }
  operator ConstTensor() const { return view; }

  Tensor view;
  Buffer memory;
};

}  // namespace engine
