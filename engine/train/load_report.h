// How evenly experts are used: the numbers behind `switchyard experts` and the step line.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace engine::train {

// Over a window with T = sum of counts assignments to E experts, r_e = counts_e * E / T:
struct LayerLoad {
  double max_over_mean = 0;  // max r_e
  double variation = 0;      // standard deviation of r_e
  double entropy = 0;        // exp(entropy of counts / T) / E: 1 when even
  int64_t dead = 0;          // experts without a token
  // What pure chance gives for independent uniform choices: expected max r_e, about 1 + sqrt(2 E ln E / T), and
  // standard deviation about sqrt(E / T).
  double chance_max = 0, chance_variation = 0;
};
LayerLoad measure_load(std::span<const int64_t> tokens_per_expert);

}  // namespace engine::train
