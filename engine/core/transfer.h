// Bytes between tensors wherever they are, and the content of a tensor as host memory.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/core/tensor.h"

namespace engine {

// to = from; both contiguous, of one type and as many elements. On a GPU in the order of its stream; where `to` is in
// host memory it is complete afterwards.
void copy(const Tensor& to, const ConstTensor& from);
void set_zero(const Tensor& tensor);

// A tensor's elements to read on the host: the tensor's own memory on the CPU, a copy of what a GPU holds.
class HostCopy {
 public:
  explicit HostCopy(const ConstTensor& tensor);
  const ConstTensor& view() const { return view_; }
  const float* f32() const { return view_.f32(); }
  const int32_t* i32() const { return view_.i32(); }

 private:
  std::vector<char> memory_;
  ConstTensor view_;
};

// A tensor's elements to read and write on the host: its own memory on the CPU; on a GPU a copy, and the tensor holds
// what was written once put() was called.
class HostEdit {
 public:
  enum class From { content, zeros };  // what the copy begins with
  explicit HostEdit(const Tensor& tensor, From from = From::content);
  const Tensor& view() const { return view_; }
  float* f32() const { return view_.f32(); }
  void put();

 private:
  std::vector<char> memory_;
  Tensor tensor_, view_;
};

}  // namespace engine
