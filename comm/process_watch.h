// Ranks that are processes watch each other over TCP, apart from MPI, which would wait for ever for one that hangs.
//
// A thread of every process tells rank 0 four times a second what its rank does, and rank 0 tells the others what it
// does itself. Rank 0 judges; the others judge rank 0. Whoever finds a rank dead or hanging says so on stderr and ends
// the job with exit code 9. Only processes that know a random word from the start of the job are listened to.
#pragma once

#include <memory>

#include "comm/group.h"
#include "comm/judge.h"

namespace comm {

class ProcessWatch {
 public:
  // Collective; begins to watch. Warns where a rank cannot be reached.
  ProcessWatch(Group& world, const WatchLimits& limits);
  // Tells the others that this rank ends by itself.
  ~ProcessWatch();
  ProcessWatch(const ProcessWatch&) = delete;

  // Collective: the work is done, and ranks end in any order.
  void finish(Group& world);

 private:
  class Thread;
  std::unique_ptr<Thread> thread_;
};

// Says what is wrong with the job, the last thing on the screen, and ends this process.
[[noreturn]] void end_watched_job(const std::string& verdict);

}  // namespace comm
