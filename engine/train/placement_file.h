// A plan of `experts simulate`, read for parallel.expert_placement.
#pragma once

#include <string>

#include "engine/config/config.h"
#include "moe/expert_placement.h"

namespace engine::train {

// Of a model with config's layers and experts on ep_size ranks. Throws Error(usage) naming what does not fit; a plan
// with copies of experts is refused, since the sums of their gradients would have another order.
moe::ExpertPlacement read_placement(const std::string& path, const ModelConfig& model, int64_t ep_size);

// parallel.expert_placement at the start of a run: none for "auto".
moe::ExpertPlacement initial_placement(const Config& config, int64_t ep_size);

}  // namespace engine::train
