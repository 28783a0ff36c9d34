#include "comm/thread_watch.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <string>

#include "comm/process_watch.h"
#include "engine/core/profiler.h"

namespace comm {
namespace {

constexpr int kTickMilliseconds = 250;

}  // namespace

ThreadWatch::ThreadWatch(const std::vector<engine::Activity>& ranks, const WatchLimits& limits)
    : ranks_(ranks), limits_(limits), wake_(eventfd(0, EFD_CLOEXEC)), thread_([this] { watch(); }) {}

ThreadWatch::~ThreadWatch() {
  leaving_ = true;
  const uint64_t one = 1;
  if (write(wake_, &one, sizeof(one)) < 0) {
    // the thread looks at leaving_ with every tick
  }
  thread_.join();
  close(wake_);
}

void ThreadWatch::watch() {
  char host[64] = {};
  gethostname(host, sizeof(host) - 1);
  Judge judge(std::vector<std::string>(ranks_.size(), host), limits_, engine::monotonic_seconds());
  while (!leaving_) {
    pollfd ready{wake_, POLLIN, 0};
    poll(&ready, 1, kTickMilliseconds);
    const double now = engine::monotonic_seconds();
    for (size_t r = 0; r < ranks_.size(); ++r) judge.saw(static_cast<int>(r), Sighting::of(ranks_[r]), now);
    const std::string verdict = judge.verdict(now);
    if (!verdict.empty() && !leaving_) end_watched_job(verdict);
  }
}

}  // namespace comm
