// Host values as an op finds them on its device: on the CPU the values themselves, on a GPU a copy.
#pragma once

#include <cstdint>

#include "engine/core/buffer.h"
#include "engine/core/device.h"

namespace engine {

template <class T>
class Mirror {
 public:
  explicit Mirror(Device device) : device_(device) {}

  // Memory for `count` values.
  void reserve(int64_t count) {
    const int64_t bytes = count * static_cast<int64_t>(sizeof(T));
    if (device_ == Device::cuda && memory_.bytes() < bytes) memory_ = Buffer(bytes, device_);
  }

  // `count` values, or null for null; valid until the next call. On a GPU in the order of the stream.
  const T* of(const T* values, int64_t count) {
    if (device_ == Device::cpu || values == nullptr) return values;
    const int64_t bytes = count * static_cast<int64_t>(sizeof(T));
    if (memory_.bytes() < bytes) reserve(count + count / 4);
    copy_to_device(memory_.data(), values, bytes);
    return reinterpret_cast<const T*>(memory_.data());
  }

 private:
  Device device_;
  Buffer memory_;
};

}  // namespace engine
