// LoadWatch: says when a layer's load stays uneven or an expert dies, once each time.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/train/load_log.h"

namespace engine::train {

class LoadWatch {
 public:
  // Uneven: the fullest expert takes more than 1.5 x its share, and more than chance gives, for 100 steps.
  // Dead: no token for 50 steps, where chance would give some.
  static constexpr double kUneven = 1.5;
  static constexpr int64_t kUnevenSteps = 100, kDeadSteps = 50;

  // The next window; what there is to say.
  std::vector<std::string> look(const LoadWindow& window);

 private:
  struct State {
    int64_t steps = 0;  // so far in a row
    bool said = false;
  };
  // Whether a condition has just held for so many steps.
  static bool lasts(State& state, bool holds, int64_t steps, int64_t long_enough);
  std::vector<State> uneven_;             // by layer
  std::vector<std::vector<State>> dead_;  // by layer and expert
};

}  // namespace engine::train
