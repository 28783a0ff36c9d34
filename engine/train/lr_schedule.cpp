#include "engine/train/lr_schedule.h"

#include <algorithm>

#include "engine/core/simd.h"

namespace engine::train {

int64_t scheduled_steps(const Config& config) {
  const StopConfig& stop = config.train.stop;
  int64_t steps = 0;
  if (stop.steps) steps = stop.steps->value;
  if (stop.tokens) {
    const int64_t by_tokens = std::max<int64_t>(1, stop.tokens->value / config.batch_tokens());
    steps = steps == 0 ? by_tokens : std::min(steps, by_tokens);
  }
  return steps;
}

double learning_rate(const OptimizerConfig& optim, int64_t step, int64_t total_steps) {
  const int64_t warmup = optim.warmup.value;
  if (step < warmup) return optim.lr * static_cast<double>(step + 1) / static_cast<double>(warmup);
  if (optim.schedule == "constant") return optim.lr;
  int64_t begin = warmup;
  if (optim.schedule == "wsd") {
    begin =
        std::max(warmup, total_steps - static_cast<int64_t>(optim.decay_fraction * static_cast<double>(total_steps)));
  }
  const double length = static_cast<double>(std::max<int64_t>(1, total_steps - 1 - begin));
  const double progress = std::clamp(static_cast<double>(step - begin) / length, 0.0, 1.0);
  double share = 1.0 - progress;
  if (optim.schedule == "cosine") {
    // our own cosine: the library's differs between machines in the last bit
    float lanes[16];
    simd::store(lanes, simd::sincos(simd::broadcast(static_cast<float>(progress * 3.14159265358979))).cos);
    share = 0.5 * (1.0 + static_cast<double>(lanes[0]));
  }
  return optim.min_lr + (optim.lr - optim.min_lr) * share;
}

}  // namespace engine::train
