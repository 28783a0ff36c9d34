// What another layout, placement or capacity would have made of the steps of a trace. Rows are exact; time is
// predicted.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/train/expert_trace.h"
#include "moe/expert_placement.h"

namespace engine::train {

// Choices of each expert in each granule: all that rows at ranks depend on.
class TraceCounts {
 public:
  explicit TraceCounts(const ExpertTrace& trace);
  const TraceHeader& header() const { return header_; }
  size_t steps() const { return steps_; }
  size_t layers() const { return header_.layers.size(); }
  // [experts]
  const int64_t* at(size_t step, size_t layer, int64_t granule) const;
  // Summed over granules and steps; and by source of the data.
  std::vector<int64_t> total(size_t layer) const;
  const std::vector<std::vector<int64_t>>& by_source(size_t layer) const { return by_source_[layer]; }
  double seconds() const { return seconds_; }                // of a step, mean
  double expert_seconds() const { return expert_seconds_; }  // of a step, summed over ranks, mean

 private:
  TraceHeader header_;
  size_t steps_;
  std::vector<int64_t> counts_;  // [steps][layers][granules][experts]
  std::vector<std::vector<std::vector<int64_t>>> by_source_;
  double seconds_ = 0, expert_seconds_ = 0;
};

struct Layout {
  int64_t ranks = 1, ep_size = 1;
  moe::ExpertPlacement placement{};
  double capacity_factor = 0;  // 0: drops nothing
};

struct Simulated {
  std::vector<std::vector<int64_t>> rows_LR{};  // [layers][ranks] over all steps
  double overload = 1;                          // fullest rank over mean of all steps together, largest layer
  double step_overload = 1;                     // the same in each step, mean over steps and layers
  double drop_rate = 0;                         // of the choices
  // Predicted: what is not in experts is divided evenly among ranks that are as fast as the traced ones; a layer's
  // experts take as long as those of its fullest rank, rows x seconds per row of the trace. New messages between ranks
  // are not counted.
  double step_seconds = 0;
};
Simulated simulate(const TraceCounts& counts, const Layout& layout);

// Spreads the experts of every layer over ep_size ranks by the counts of the trace.
moe::ExpertPlacement plan_placement(const TraceCounts& counts, int64_t ep_size);

// With copies of experts: each takes an equal part of its expert's tokens. `expert_of_slot_L`: for each layer.
Simulated simulate_replicas(const TraceCounts& counts, int64_t gpus,
                            const std::vector<std::vector<int64_t>>& expert_of_slot_L);

}  // namespace engine::train
