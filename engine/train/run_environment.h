// env.json: the machine and the layout that a run has.
#pragma once

#include <string>

#include "comm/parallel_groups.h"

namespace engine::train {

// To be called on a rank; `threads` are those of each rank.
std::string environment_json(const std::string& version, const comm::ParallelGroups& groups, int threads);

}  // namespace engine::train
