#include "engine/train/phase_trace.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>

#include "comm/text.h"
#include "engine/config/json_reader.h"

namespace engine::train {
namespace {

constexpr size_t kMostEvents = 1 << 16;

std::string event(const char* name, double start, double seconds, int rank) {
  char times[120];
  std::snprintf(times, sizeof(times), ",\"ph\":\"X\",\"ts\":%.3f,\"dur\":%.3f,\"pid\":0,\"tid\":%d}", 1e6 * start,
                1e6 * seconds, rank);
  return ",\n{\"name\":" + json_string(name) + ",\"cat\":\"phase\"" + times;
}

}  // namespace

void PhaseTrace::begin_step() {
  tracing_ = std::find(steps_.begin(), steps_.end(), trainer_.step() + 1) != steps_.end();
  if (!tracing_) return;
  trainer_.groups().world->barrier();  // all ranks' clocks start here
  began_ = monotonic_seconds();
  trainer_.model().profiler().record_events(kMostEvents);
}

bool PhaseTrace::end_step(const StepResult& result) {
  if (!tracing_) return true;
  tracing_ = false;
  const int rank = trainer_.groups().world->rank();
  std::string mine = event("step", 0, monotonic_seconds() - began_, rank);
  for (const Profiler::Event& e : trainer_.model().profiler().take_events()) {
    mine += event(e.name, e.start - began_, e.seconds, rank);
  }
  const std::vector<std::string> ranks = comm::all_gather_text(*trainer_.groups().world, mine);
  if (directory_.empty()) return true;
  std::string json =
      str("{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n{\"name\":\"process_name\",\"ph\":\"M\",\"pid\":0,",
          "\"tid\":0,\"args\":{\"name\":\"step ", result.step, "\"}}");
  for (size_t r = 0; r < ranks.size(); ++r) {
    json += str(",\n{\"name\":\"thread_name\",\"ph\":\"M\",\"pid\":0,\"tid\":", r, ",\"args\":{\"name\":\"rank ", r,
                "\"}}", ranks[r]);
  }
  std::error_code error;
  std::filesystem::create_directories(directory_ + "/trace", error);
  char name[40];
  std::snprintf(name, sizeof(name), "/trace/step-%08lld.json", static_cast<long long>(result.step));
  std::ofstream file(directory_ + name, std::ios::binary);
  file << json << "\n]}\n";
  return static_cast<bool>(file.flush());
}

}  // namespace engine::train
