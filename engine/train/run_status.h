// status.json: how a run is doing, for scripts. It is replaced as a whole, so that a reader never sees a part of it.
#pragma once

#include <cstdint>
#include <mutex>
#include <string>

#include "engine/core/error.h"
#include "engine/train/run_directory.h"

namespace engine::train {

class RunStatus {
 public:
  // Nothing is written before begin().
  explicit RunStatus(RunDirectory& directory) : directory_(directory) {}
  RunStatus(const RunStatus&) = delete;

  void begin(int64_t step, int64_t last_step);  // last_step 0: not known
  void activity(const std::string& text);       // "training", "evaluating", "saving"
  void step(int64_t step, double loss, double tokens_per_second, double seconds_left);
  // "done" or "stopped"; whatever comes after it is without effect.
  void end(const std::string& status);
  void fail(ExitCode code, const std::string& reason);
  // To be called about each second: writes the time, so that a run that was killed can be told from one that goes on.
  void beat();

 private:
  void write(bool now);
  RunDirectory& directory_;
  std::mutex mutex_;
  std::string status_, activity_, reason_, started_;  // status_ empty: not begun
  int64_t step_ = 0, last_step_ = 0;
  double loss_ = 0, tokens_per_second_ = 0, seconds_left_ = -1;
  int exit_code_ = 0;
  double written_ = 0;
};

// A point in time as in 2026-01-15T10:15:02Z.
std::string utc_time();

}  // namespace engine::train
