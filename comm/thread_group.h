// Ranks as threads of one process: several ranks on one machine, with nothing installed.
//
// A collective is posted by each rank (a pointer and a sequence number) and completed in wait(), where every rank
// copies what it needs out of the others' buffers. Sums are taken in rank order, so they do not depend on timing.
#pragma once

#include <functional>

#include "comm/group.h"
#include "comm/judge.h"

namespace comm {

// Runs body(group) on num_ranks threads, each with a pool of threads_per_rank. If a rank throws, the others stop
// at their next collective, and the first error is thrown here. With `watch`, a rank that hangs is found; as a thread
// cannot be ended from outside, the process then says so and ends with exit code 9.
void run_thread_ranks(int num_ranks, int threads_per_rank, const std::function<void(std::unique_ptr<Group>)>& body,
                      const WatchLimits* watch = nullptr);

}  // namespace comm
