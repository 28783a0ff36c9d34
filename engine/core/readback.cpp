#include "engine/core/readback.h"

#include <algorithm>
#include <utility>

namespace engine {

char* Readback::place_bytes(int64_t bytes) {
  constexpr int64_t kAlign = 64;
  bytes = (bytes + kAlign - 1) / kAlign * kAlign;
  int64_t room = bytes;
  if (std::exchange(started_, false)) {
    int64_t used = 0;
    for (Part& part : parts_) used += std::exchange(part.used, 0);
    next_ = 0;
    if (device_ == Device::cuda && parts_.size() > 1) {  // one copy for all from now on
      parts_.clear();
      room = std::max(bytes, used);
    }
  }
  while (next_ < parts_.size() && parts_[next_].used + bytes > parts_[next_].there.bytes()) ++next_;
  if (next_ == parts_.size()) {
    Part part{.there = Buffer(room, device_), .here = {}};
    if (device_ == Device::cuda) part.here.reserve(room);
    parts_.push_back(std::move(part));
  }
  Part& part = parts_[next_];
  return part.there.data() + std::exchange(part.used, part.used + bytes);
}

void Readback::start() {
  started_ = true;
  if (device_ == Device::cpu) return;
  for (Part& part : parts_) part.here.start(part.there.data(), part.used);
}

void Readback::wait() {
  if (device_ == Device::cpu) return;
  for (Part& part : parts_) part.here.wait();
}

const char* Readback::host_bytes(const char* there) const {
  if (device_ == Device::cpu) return there;
  for (const Part& part : parts_) {
    const int64_t offset = there - part.there.data();
    if (offset >= 0 && offset < part.used) return part.here.data() + offset;
  }
  check_failed(__FILE__, __LINE__, "host", "read back what was not placed");
}

}  // namespace engine
