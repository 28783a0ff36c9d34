// Ranks of a job: threads of this process, or processes that mpirun starts.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "comm/group.h"

namespace tools {

struct RankOptions {
  int ranks = 0;              // 0: not given
  int threads = 0;            // of each rank; 0: not given
  std::string transport{};    // empty: not given
  bool print_launch = false;  // only print the command that would start the ranks
};

// What ranks are once the options, and a launcher that started this process, are looked at. Throws Error(usage) where
// they contradict each other.
struct RankPlan {
  enum class Kind { threads, start_mpirun, fork, join };
  Kind kind = Kind::threads;
  int ranks = 1;    // join: 0 until the world is open, unless given
  int threads = 1;  // of each rank; join: of the processors of this host, shared by its ranks
};
RankPlan plan_ranks(const RankOptions& options);

// Runs this command line again as plan.ranks processes under mpirun and waits for them; returns their exit code. The
// first signal to stop goes to the ranks as SIGUSR1, which mpirun passes on without ending them; a second one ends
// them.
int start_mpirun(const RankPlan& plan, bool only_print);

// Runs body(world), which gives the exit code, in plan.ranks processes forked from this one, which has not used a
// device yet, and waits for them; returns the exit code of the first that fails. A failure is reported as by join_mpi.
int fork_ranks(const RankPlan& plan, const std::function<int(std::unique_ptr<comm::Group>)>& body);

// Runs body(world), which gives the exit code, as this process's rank of an MPI job. A failure is reported once: by
// rank 0 or, if that does not fail, by who does; the process ends with it.
int join_mpi(const RankPlan& plan, const std::function<int(std::unique_ptr<comm::Group>)>& body);

// All of it: runs body(world) on the ranks that the options ask for, or as the one that a launcher has started. Ranks
// that are threads fail by throwing; their codes are not looked at.
int run_ranks(const RankOptions& options, const std::function<int(std::unique_ptr<comm::Group>)>& body);

}  // namespace tools
