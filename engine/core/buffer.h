// Owning memory: aligned, zeroed, in huge pages where the system gives them.
#pragma once

#include <cstdint>
#include <memory>

#include "engine/core/tensor.h"

namespace engine {

class Buffer {
 public:
  Buffer() = default;
  // Anonymous pages, which read as zero. Throws Error(environment) when there is no memory.
  explicit Buffer(int64_t bytes);
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Buffer();

  char* data() const { return data_; }
  int64_t bytes() const { return bytes_; }
  float* f32() const { return reinterpret_cast<float*>(data_); }
  double* f64() const { return reinterpret_cast<double*>(data_); }

 private:
  void swap(Buffer& other) noexcept;
  char* data_ = nullptr;
  int64_t bytes_ = 0;
};

// A tensor that owns its memory.
struct OwnedTensor {
  OwnedTensor(DType dtype, std::initializer_list<int64_t> dims);
  operator Tensor() const { return view; }
  operator ConstTensor() const { return view; }

  Tensor view;
  Buffer memory;
};

}  // namespace engine
