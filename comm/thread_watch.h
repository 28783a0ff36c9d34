// Watches ranks that are threads of this process.
#pragma once

#include <atomic>
#include <thread>
#include <vector>

#include "comm/judge.h"

namespace comm {

// While it lives, a rank that hangs ends the process with a message and exit code 9.
class ThreadWatch {
 public:
  ThreadWatch(const std::vector<engine::Activity>& ranks, const WatchLimits& limits);
  ~ThreadWatch();
  ThreadWatch(const ThreadWatch&) = delete;

 private:
  void watch();

  const std::vector<engine::Activity>& ranks_;
  WatchLimits limits_;
  int wake_;
  std::atomic<bool> leaving_{false};
  std::thread thread_;
};

}  // namespace comm
