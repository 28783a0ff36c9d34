#include "engine/core/transfer.h"

#include <cstring>

#include "engine/core/device.h"
#include "engine/core/error.h"
#include "engine/core/thread_pool.h"

namespace engine {
namespace {

int64_t bytes_of(const ConstTensor& tensor) {
  ENSURE(tensor.is_contiguous(), "only contiguous tensors are copied whole");
  return tensor.num_elements() * dtype_bytes(tensor.dtype);
}

constexpr int64_t kBytesPerTask = int64_t{1} << 20;

}  // namespace

void copy(const Tensor& to, const ConstTensor& from) {
  ENSURE(to.dtype == from.dtype && to.num_elements() == from.num_elements(), "a copy of ", from.num_elements(), " ",
         dtype_name(from.dtype), " to ", to.num_elements(), " ", dtype_name(to.dtype));
  const int64_t bytes = bytes_of(to);
  ENSURE(bytes == bytes_of(from), "copies have the size of what is copied");
  if (to.device == Device::cuda && from.device == Device::cuda) return device_copy(to.data, from.data, bytes);
  if (to.device == Device::cuda) return copy_to_device(to.data, from.data, bytes);
  if (from.device == Device::cuda) return copy_to_host(to.data, from.data, bytes);
  parallel_ranges(bytes, kBytesPerTask, [&](int64_t begin, int64_t end) {
    std::memcpy(static_cast<char*>(to.data) + begin, static_cast<const char*>(from.data) + begin,
                static_cast<size_t>(end - begin));
  });
}

void set_zero(const Tensor& tensor) {
  const int64_t bytes = bytes_of(tensor);
  if (tensor.device == Device::cuda) return device_fill(tensor.data, 0, bytes);
  parallel_ranges(bytes, kBytesPerTask, [&](int64_t begin, int64_t end) {
    std::memset(static_cast<char*>(tensor.data) + begin, 0, static_cast<size_t>(end - begin));
  });
}

HostCopy::HostCopy(const ConstTensor& tensor) : view_(tensor) {
  if (tensor.device == Device::cpu) return;
  memory_.resize(static_cast<size_t>(bytes_of(tensor)));
  copy_to_host(memory_.data(), tensor.data, bytes_of(tensor));
  view_.data = memory_.data();
  view_.device = Device::cpu;
}

HostEdit::HostEdit(const Tensor& tensor, From from) : tensor_(tensor), view_(tensor) {
  if (tensor.device == Device::cpu) return;
  memory_.resize(static_cast<size_t>(bytes_of(tensor)));
  if (from == From::content) copy_to_host(memory_.data(), tensor.data, bytes_of(tensor));
  view_.data = memory_.data();
  view_.device = Device::cpu;
}

void HostEdit::put() {
  if (tensor_.device == Device::cuda) copy_to_device(tensor_.data, view_.data, bytes_of(tensor_));
}

}  // namespace engine
