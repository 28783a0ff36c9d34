// What a run records of its steps: metrics.jsonl, experts.jsonl, and the lines of the console.
#pragma once

#include <cstdint>

#include "engine/train/console.h"
#include "engine/train/load_window.h"
#include "engine/train/run_directory.h"
#include "engine/train/trainer.h"

namespace engine::train {

class RunLog {
 public:
  // `directory` takes the files; null: nothing is written.
  RunLog(Trainer& trainer, RunDirectory* directory, Console& console)
      : trainer_(trainer), directory_(directory), console_(console), window_(trainer) {}

  // The step that was just taken; `report`: the steps since the last report get their line. Collective.
  void step(const StepResult& result, bool report);
  // How far the run is; last_step INT64_MAX: not known.
  void progress(const StepResult& result, int64_t last_step);
  // Tokens per second over the steps of this run.
  double mean_speed() const { return trained_seconds_ > 0 ? trained_tokens_ / trained_seconds_ : 0; }

 private:
  void write_metrics(const StepResult& result, double speed);
  Trainer& trainer_;
  RunDirectory* directory_;
  Console& console_;
  LoadWindow window_;
  double trained_tokens_ = 0, trained_seconds_ = 0;
};

}  // namespace engine::train
