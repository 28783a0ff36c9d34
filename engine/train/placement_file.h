// Where parallel.expert_placement puts experts: by a plan of `experts simulate`, or by load.
#pragma once

#include <string>
#include <vector>

#include "engine/config/config.h"
#include "moe/expert_placement.h"

namespace engine::train {

// Of a model with config's layers and experts on ep_size ranks. Throws Error(usage) naming what does not fit; a plan
// with copies of experts is refused, since the sums of their gradients would have another order.
moe::ExpertPlacement read_placement(const std::string& path, const ModelConfig& model, int64_t ep_size);

// parallel.expert_placement at the start of a run: none for "auto".
moe::ExpertPlacement initial_placement(const Config& config, int64_t ep_size);

// For "auto": every layer's experts spread by load (moe::spread_experts). `load`: [MoE layers][experts] choices, whole
// numbers, in one row.
moe::ExpertPlacement spread_by_load(const std::vector<double>& load, const ModelConfig& model, int64_t ep_size);

}  // namespace engine::train
