// Calls a function at regular times beside whatever else a run does, so that a long step does not look like a dead one.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

namespace engine::train {

class Heartbeat {
 public:
  // Every `seconds`, from a thread of its own, until the end of its life. `beat` must not throw.
  Heartbeat(double seconds, std::function<void()> beat);
  ~Heartbeat();
  Heartbeat(const Heartbeat&) = delete;

 private:
  std::mutex mutex_;
  std::condition_variable wake_;
  bool ended_ = false;
  std::thread thread_;
};

}  // namespace engine::train
