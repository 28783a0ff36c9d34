// Chosen steps of a run done again, to see which experts their tokens took (`experts RUN --trace`).
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "engine/config/config.h"

namespace engine::train {

struct TraceReplay {
  std::string run{};             // its directory
  Config config{};               // of the run, as it was resolved
  std::vector<int64_t> steps{};  // to trace, from 1
  std::string path{};            // of the trace, as expert_trace.h has it; no file may be there
  std::function<void(const std::string&)> say = [](const std::string&) {};
};

// Each step is trained again from the newest whole checkpoint before it, on one rank and with the text of the run, and
// its loss is compared with the one in metrics.jsonl. Nothing of the run changes. Returns how many steps were trained.
// Throws Error(usage) for a step the run has not taken, Error(checkpoint) for one without a checkpoint before it, and
// Error(data) where a step does not come out as it was.
int64_t replay_trace(const TraceReplay& replay);

}  // namespace engine::train
