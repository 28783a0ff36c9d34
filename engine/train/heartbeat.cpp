#include "engine/train/heartbeat.h"

#include <signal.h>

#include <chrono>
#include <utility>

namespace engine::train {

Heartbeat::Heartbeat(double seconds, std::function<void()> beat) {
  sigset_t all, before;  // signals are for the threads that compute
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([this, seconds, beat = std::move(beat)] {
    std::unique_lock lock(mutex_);
    const auto pause = std::chrono::duration<double>(seconds);
    while (!wake_.wait_for(lock, pause, [this] { return ended_; })) beat();
  });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

Heartbeat::~Heartbeat() {
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

}  // namespace engine::train
