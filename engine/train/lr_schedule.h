// Learning rate by step. A schedule's length is fixed at the start of the run.
#pragma once

#include <cstdint>

#include "engine/config/config.h"

namespace engine::train {

// Steps of the whole run from stop.steps or stop.tokens, whichever ends first; 0: not limited.
int64_t scheduled_steps(const Config& config);

// For step n = 0, 1, ..., with W = warmup, N = total_steps, p = (n - W) / (N - 1 - W) limited to [0, 1]:
//   n < W:     lr * (n + 1) / W
//   constant:  lr
//   linear:    min_lr + (lr - min_lr) * (1 - p)
//   cosine:    min_lr + (lr - min_lr) * (1 + cos(pi * p)) / 2
//   wsd:       lr until the last decay_fraction * N steps, then linear to min_lr
double learning_rate(const OptimizerConfig& optim, int64_t step, int64_t total_steps);

}  // namespace engine::train
