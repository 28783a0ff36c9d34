#include "engine/core/stop_request.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>

#include "engine/core/error.h"

namespace engine {
namespace {

std::atomic<int> signals_received{0};
static_assert(std::atomic<int>::is_always_lock_free);

void on_signal(int number) {
  if (signals_received.fetch_add(1) > 0) _exit(128 + number);
}

}  // namespace

void catch_stop_signals() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  for (int number : {SIGINT, SIGTERM, SIGUSR1}) sigaction(number, &action, nullptr);
}

bool stop_requested() {
  return signals_received.load() > 0;
}

void throw_if_stop_requested() {
  if (stop_requested()) throw Error(ExitCode::stopped, "stopped on request before there was anything to save");
}

}  // namespace engine
