#include "engine/core/transfer.h"

#include <cstring>

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

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
constexpr int64_t kBeyondCaches = int64_t{16} << 20;

// Past the caches, which would read every line before they write it: more than twice as fast for what is not read soon.
void clear_memory(char* begin, char* end) {
#if defined(__x86_64__)
  constexpr uintptr_t kVector = sizeof(__m128i);
  const uintptr_t ahead = (kVector - reinterpret_cast<uintptr_t>(begin) % kVector) % kVector;
  std::memset(begin, 0, ahead);
  begin += ahead;
  for (; end - begin >= static_cast<ptrdiff_t>(kVector); begin += kVector) {
    _mm_stream_si128(reinterpret_cast<__m128i*>(begin), _mm_setzero_si128());
  }
  _mm_sfence();
#endif
  std::memset(begin, 0, static_cast<size_t>(end - begin));
}

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
  char* memory = static_cast<char*>(tensor.data);
  parallel_ranges(bytes, kBytesPerTask, [&](int64_t begin, int64_t end) {
    if (bytes > kBeyondCaches) return clear_memory(memory + begin, memory + end);
    std::memset(memory + begin, 0, static_cast<size_t>(end - begin));
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
