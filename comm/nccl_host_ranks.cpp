#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <vector>

#include "comm/nccl_host_group.h"
#include "comm/nccl_host_memory.h"
#include "engine/core/error.h"

namespace comm {

using engine::Error;
using engine::ExitCode;
using engine::str;

namespace {

constexpr int64_t kAlignment = 4096;
constexpr int kSecondsToInsist = 2;
constexpr int kSecondsToEnd = 10;  // for the others once a rank has failed

void signal_all(const std::vector<pid_t>& ranks, int number) {
  for (const pid_t rank : ranks) {
    if (rank > 0) kill(rank, number);
  }
}

// Takes who has ended out of `ranks`; code: of the first that failed.
void collect(std::vector<pid_t>& ranks, int& code) {
  for (pid_t& rank : ranks) {
    int status = 0;
    if (rank <= 0 || waitpid(rank, &status, WNOHANG) != rank) continue;
    rank = 0;
    const int own = WIFEXITED(status) ? WEXITSTATUS(status) : static_cast<int>(ExitCode::rank_lost);
    if (code == 0) code = own;
  }
}

int wait_for(std::vector<pid_t> ranks, const sigset_t& watched) {
  int code = 0, stops = 0, seconds = 0;
  for (;;) {
    const int before = code;
    collect(ranks, code);
    if (before == 0 && code != 0 && code != static_cast<int>(ExitCode::stopped)) signal_all(ranks, SIGTERM);
    if (std::all_of(ranks.begin(), ranks.end(), [](pid_t rank) { return rank == 0; })) return code;
    const timespec second{1, 0};
    const int number = sigtimedwait(&watched, nullptr, &second);
    if (number > 0 && number != SIGCHLD) signal_all(ranks, ++stops == 1 ? SIGUSR1 : SIGTERM);
    if (number >= 0 || code == 0) continue;
    ++seconds;
    if (seconds == kSecondsToInsist) signal_all(ranks, SIGTERM);  // who took the first one for a wish to stop
    if (seconds >= kSecondsToEnd) signal_all(ranks, SIGKILL);
  }
}

}  // namespace

HostMemory::HostMemory() {
  void* mapped = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) {
    throw Error(ExitCode::environment, str("cannot map memory for ranks to share: ", std::strerror(errno)));
  }
  base_ = static_cast<char*>(mapped);
  reinterpret_cast<std::atomic<int64_t>*>(base_)->store(kAlignment);
}

HostMemory::~HostMemory() {
  munmap(base_, kBytes);
}

int64_t HostMemory::allocate(int64_t bytes) {
  const int64_t size = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  const int64_t place = reinterpret_cast<std::atomic<int64_t>*>(base_)->fetch_add(size);
  ENSURE(place + size <= kBytes, "more groups than memory shared by ranks has room for");
  return place;
}

int run_forked_ranks(int ranks, const std::function<int(std::unique_ptr<Group>)>& body) {
  ENSURE(ranks <= HostMemory::kMostRanks, ranks, " ranks on one host, but at most ", HostMemory::kMostRanks);
  HostMemory memory;
  const int64_t board = memory.allocate(HostMemory::board_bytes(ranks));
  sigset_t watched, before;
  sigemptyset(&watched);
  for (int number : {SIGCHLD, SIGINT, SIGTERM, SIGUSR1}) sigaddset(&watched, number);
  sigprocmask(SIG_BLOCK, &watched, &before);
  std::fflush(stdout), std::fflush(stderr);  // else each child would write it again
  std::vector<pid_t> processes;
  for (int rank = 0; rank < ranks; ++rank) {
    const pid_t child = fork();
    if (child < 0) {
      const int reason = errno;
      signal_all(processes, SIGKILL);
      throw Error(ExitCode::environment, str("cannot start rank ", rank, ": ", std::strerror(reason)));
    }
    if (child == 0) {
      prctl(PR_SET_PDEATHSIG, SIGTERM);  // ends with its parent
      setpgid(0, 0);                     // Ctrl-C goes to the parent alone, which passes it on
      sigprocmask(SIG_SETMASK, &before, nullptr);
      const int code = body(make_forked_group(memory, board, rank, ranks));
      std::fflush(stdout), std::fflush(stderr);
      _exit(code);
    }
    processes.push_back(child);
  }
  const int code = wait_for(processes, watched);
  sigprocmask(SIG_SETMASK, &before, nullptr);
  return code;
}

}  // namespace comm
