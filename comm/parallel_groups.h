// The process groups of one run, built once and passed to whoever needs one.
#pragma once

#include <memory>

#include "comm/group.h"

namespace comm {

// world.rank() = expert_dp.rank() * ep_size + ep.rank()
struct ParallelGroups {
  std::unique_ptr<Group> world;      // every rank; dense weights are replicated here
  std::unique_ptr<Group> ep;         // ranks that together hold all experts once; dispatch and combine run here
  std::unique_ptr<Group> expert_dp;  // ranks with the same experts
};

// ep_size divides world->size(); throws Error(usage) naming the values that would.
ParallelGroups make_parallel_groups(std::unique_ptr<Group> world, int64_t ep_size);

// The experts of one rank of ep: consecutive numbers, the first `num_experts % size` ranks hold one more.
struct ExpertRange {
  int64_t begin = 0, end = 0;
};
ExpertRange experts_of_rank(int64_t num_experts, int rank, int size);

}  // namespace comm
