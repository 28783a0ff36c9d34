// Ranks that hold the same weights hold the same bits: the check before weights are saved.
#pragma once

#include "comm/parallel_groups.h"
#include "engine/train/tensor_table.h"

namespace engine::train {

// Collective. Throws Error(rank_lost), alike on every rank, naming the first weight that differs between the ranks that
// hold it, and who holds what.
void check_replicas(const TensorTable& table, comm::ParallelGroups& groups);

}  // namespace engine::train
