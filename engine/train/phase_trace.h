// trace/step-N.json: the phases of a step on every rank, in the Trace Event Format that Perfetto and chrome://tracing
// open: one track for each rank, "X" events with `ts` and `dur` in microseconds since the step began.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/train/trainer.h"

namespace engine::train {

class PhaseTrace {
 public:
  // `directory`: of the run, where this rank writes; empty: it does not.
  PhaseTrace(Trainer& trainer, std::vector<int64_t> steps, std::string directory)
      : trainer_(trainer), steps_(std::move(steps)), directory_(std::move(directory)) {}

  // Before and after a step; collective where it is one of the steps. False: the file cannot be written.
  void begin_step();
  bool end_step(const StepResult& result);

 private:
  Trainer& trainer_;
  std::vector<int64_t> steps_;
  std::string directory_;
  bool tracing_ = false;
  double began_ = 0;
};

}  // namespace engine::train
