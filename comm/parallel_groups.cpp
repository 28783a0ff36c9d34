#include "comm/parallel_groups.h"

#include <algorithm>
#include <string>

#include "engine/core/error.h"

namespace comm {

ParallelGroups make_parallel_groups(std::unique_ptr<Group> world, int64_t ep_size) {
  const int64_t ranks = world->size();
  if (ep_size < 1 || ranks % ep_size != 0) {
    std::string divisors;
    for (int64_t d = 1; d <= ranks; ++d) {
      if (ranks % d == 0) divisors += (divisors.empty() ? "" : ", ") + std::to_string(d);
    }
    throw engine::Error(engine::ExitCode::usage, engine::str("parallel.ep_size is ", ep_size, " but must divide the ",
                                                             ranks, " ranks: ", divisors));
  }
  const int rank = world->rank(), ep = static_cast<int>(ep_size);
  ParallelGroups groups;
  groups.ep = world->split(rank / ep, rank % ep);
  groups.expert_dp = world->split(rank % ep, rank / ep);
  groups.world = std::move(world);
  groups.world->set_name("world"), groups.ep->set_name("ep"), groups.expert_dp->set_name("expert_dp");
  return groups;
}

ExpertRange experts_of_rank(int64_t num_experts, int rank, int size) {
  const int64_t each = num_experts / size, more = num_experts % size;
  const int64_t begin = rank * each + std::min<int64_t>(rank, more);
  return {begin, begin + each + (rank < more ? 1 : 0)};
}

}  // namespace comm
