// Expert load of the steps since the last report.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/train/trainer.h"

namespace engine::train {

class LoadWindow {
 public:
  explicit LoadWindow(Trainer& trainer);
  // Adds the step that was just taken.
  void add();

  struct Summary {
    double worst_load = 0;  // largest max/mean over layers
    int64_t worst_layer = 0;
    double dropped_share = 0;  // of all (token, slot) pairs
    std::string json;          // a line of experts.jsonl, "" for a model without experts
  };
  // Of the steps since the last call.
  Summary finish(int64_t step);

 private:
  Trainer& trainer_;
  std::vector<int64_t> counts_, dropped_;  // [MoE layers][experts], [MoE layers]
};

}  // namespace engine::train
