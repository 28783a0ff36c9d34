#include "engine/train/spike_policy.h"

namespace engine::train {

SpikeAction SpikePolicy::decide(const std::optional<double>& loss_z, const std::optional<double>& grad_norm_z) {
  if (!(loss_z && *loss_z > limit_) && !(grad_norm_z && *grad_norm_z > limit_)) {
    skips_ = 0;
    return SpikeAction::none;
  }
  if (action_ == "rollback") return SpikeAction::rollback;
  if (action_ != "skip" || skips_ == kMostSkips) return SpikeAction::log;
  ++skips_;
  return SpikeAction::skip;
}

std::vector<double> SpikePolicy::state() const {
  return {static_cast<double>(skips_), static_cast<double>(rollbacks_)};
}

void SpikePolicy::set_state(const std::vector<double>& state) {
  skips_ = state.size() > 0 ? static_cast<int64_t>(state[0]) : 0;
  rollbacks_ = state.size() > 1 ? static_cast<int64_t>(state[1]) : 0;
}

}  // namespace engine::train
