// Ranks that are processes forked from this one: what NCCL's groups are made from on one host without MPI.
//
// They share memory that was mapped before the fork. A collective goes through it in pieces and is over when its call
// returns: meant for counts, losses and texts, while what is on GPUs goes by NCCL. Sums are taken in rank order.
#pragma once

#include <functional>
#include <memory>

#include "comm/group.h"

namespace comm {

// Forks `ranks` processes that exit with body(their group), and waits for all of them. The first signal to stop goes to
// them as SIGUSR1, a second one as SIGTERM; when one of them fails, the others get SIGTERM and ten seconds to end.
// Returns the exit code of the first that failed, rank_lost where a signal ended it. The calling process has no
// threads, and has not used a device.
int run_forked_ranks(int ranks, const std::function<int(std::unique_ptr<Group>)>& body);

}  // namespace comm
