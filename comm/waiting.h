// A rank waits for others in a collective: said to whoever watches, and timed.
#pragma once

#include <cstdint>

#include "engine/core/activity.h"
#include "engine/core/profiler.h"

namespace comm {

class Waiting {
 public:
  // Adds the time of its life to `seconds`. The texts are literals.
  Waiting(const char* collective, const char* group, uint64_t number, double& seconds)
      : activity_(engine::activity()), seconds_(seconds), start_(engine::monotonic_seconds()) {
    activity_.group.store(group, std::memory_order_relaxed);
    activity_.number.store(static_cast<int64_t>(number), std::memory_order_relaxed);
    activity_.collective.store(collective, std::memory_order_relaxed);
    activity_.advance();
  }
  ~Waiting() {
    seconds_ += engine::monotonic_seconds() - start_;
    activity_.collective.store(nullptr, std::memory_order_relaxed);
    activity_.advance();
  }
  Waiting(const Waiting&) = delete;

 private:
  engine::Activity& activity_;
  double& seconds_;
  double start_;
};

}  // namespace comm
