// Where the time of a step goes: seconds per named phase, summed on the rank's main thread.
#pragma once

#include <chrono>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/core/activity.h"
#include "engine/core/device.h"

namespace engine {

inline double monotonic_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

class Profiler {
 public:
  struct Phase {
    const char* name;
    double seconds;
    int64_t calls;
  };
  void add(const char* name, double seconds);

  // One by one, for a trace: every scope that ends from record_events() on, the first `most` of them.
  struct Event {
    const char* name;
    double start, seconds;  // monotonic
  };
  void record_events(size_t most) {
    events_.clear();
    events_.reserve(most);
  }
  std::vector<Event> take_events() { return std::exchange(events_, {}); }

  void clear() { phases_.clear(); }
  // From now on a scope ends when the work it queued on a GPU is done. Times are then those of the phases, but the step
  // takes longer.
  void wait_for_device() { waits_ = true; }
  double seconds(std::string_view name) const;  // of a phase so far
  const std::vector<Phase>& phases() const { return phases_; }

  // Adds the time of its life to a phase, which is also what the rank is seen to do. `name` must be a literal.
  class Scope {
   public:
    Scope(Profiler& profiler, const char* name)
        : profiler_(profiler), name_(name), outer_(activity().phase), start_(monotonic_seconds()) {
      activity().enter(name);
    }
    ~Scope() {
      if (profiler_.waits_) device_synchronize();
      profiler_.finish(name_, start_);
      activity().enter(outer_);
    }
    Scope(const Scope&) = delete;

   private:
    Profiler& profiler_;
    const char* name_;
    const char* outer_;
    double start_;
  };

 private:
  bool waits_ = false;
  void finish(const char* name, double start) {
    const double seconds = monotonic_seconds() - start;
    add(name, seconds);
    if (events_.size() < events_.capacity()) events_.push_back({name, start, seconds});
  }
  std::vector<Phase> phases_;
  std::vector<Event> events_;  // has room only while a trace is recorded
};

inline double Profiler::seconds(std::string_view name) const {
  for (const Phase& phase : phases_) {
    if (phase.name == name) return phase.seconds;
  }
  return 0;
}

inline void Profiler::add(const char* name, double seconds) {
  for (Phase& phase : phases_) {
    if (phase.name == name) {
      phase.seconds += seconds;
      ++phase.calls;
      return;
    }
  }
  phases_.push_back({name, seconds, 1});
}

}  // namespace engine
