// What becomes of a step whose loss or gradient norm is far out of line with the steps before it (robust_z.h).
//
// Decided from the reduced scalars alone, so every rank decides alike on any layout.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "engine/config/config.h"

namespace engine::train {

enum class SpikeAction {
  none,      // an ordinary step
  log,       // the update is applied all the same
  skip,      // the update is left out
  rollback,  // the step is undone; the run goes back to a checkpoint and on without its samples
};

class SpikePolicy {
 public:
  static constexpr int64_t kMostSkips = 3;      // in a row; what stays high longer is no spike
  static constexpr int64_t kMostRollbacks = 3;  // of a run

  explicit SpikePolicy(const TrainingConfig& config) : action_(config.on_spike), limit_(config.spike_z) {}

  SpikeAction decide(const std::optional<double>& loss_z, const std::optional<double>& grad_norm_z);

  void count_rollback() { ++rollbacks_; }
  int64_t rollbacks() const { return rollbacks_; }

  // Part of a checkpoint: skips in a row, and rollbacks.
  std::vector<double> state() const;
  void set_state(const std::vector<double>& state);

 private:
  std::string action_;
  double limit_;
  int64_t skips_ = 0, rollbacks_ = 0;
};

}  // namespace engine::train
