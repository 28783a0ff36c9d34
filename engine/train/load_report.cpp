#include "engine/train/load_report.h"

#include <algorithm>
#include <cmath>

namespace engine::train {

LayerLoad measure_load(std::span<const int64_t> tokens_per_expert) {
  LayerLoad load;
  const double E = static_cast<double>(tokens_per_expert.size());
  double total = 0;
  for (int64_t count : tokens_per_expert) total += static_cast<double>(count);
  if (total == 0) {
    load.dead = static_cast<int64_t>(tokens_per_expert.size());
    return load;
  }
  double squares = 0, entropy = 0;
  for (int64_t count : tokens_per_expert) {
    const double share = static_cast<double>(count) / total, relative = share * E;
    load.max_over_mean = std::max(load.max_over_mean, relative);
    squares += (relative - 1) * (relative - 1);
    if (count > 0) entropy -= share * std::log(share);
    load.dead += count == 0 ? 1 : 0;
  }
  load.variation = std::sqrt(squares / E);
  load.entropy = std::exp(entropy) / E;
  load.chance_max = 1 + std::sqrt(2 * E * std::log(E) / total);
  load.chance_variation = std::sqrt(E / total);
  return load;
}

}  // namespace engine::train
