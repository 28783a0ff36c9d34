// What a run records of its steps: metrics.jsonl, experts.jsonl, the lines of the console, status.json, and files for
// TensorBoard and Prometheus where the config asks for them.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "engine/data/sampler.h"
#include "engine/train/console.h"
#include "engine/train/load_recorder.h"
#include "engine/train/load_report.h"
#include "engine/train/load_watch.h"
#include "engine/train/phase_trace.h"
#include "engine/train/prometheus.h"
#include "engine/train/run_directory.h"
#include "engine/train/run_status.h"
#include "engine/train/tensorboard.h"
#include "engine/train/trainer.h"

namespace engine::train {

class RunLog {
 public:
  // `directory` takes the files; null: nothing is written.
  RunLog(Trainer& trainer, const data::Corpus& corpus, const data::Sampler& sampler, RunDirectory* directory,
         Console& console, RunStatus* status);

  // Before the first step of this process.
  void begin(int64_t last_step);  // INT64_MAX: not known
  // Before a step on the samples from first_sample on.
  void begin_step(int64_t first_sample);
  // The step that was just taken; `report`: the steps since the last report get their line. `seconds_left`: until the
  // run's time is up, infinite without such a limit. Collective.
  void step(const StepResult& result, bool report, double seconds_left);
  void evaluation(const EvaluationReport& report);
  // Tokens per expert, [MoE layers][experts], reported since the last call; empty if nothing was.
  std::vector<std::vector<int64_t>> take_load() { return std::exchange(load_LE_, {}); }
  // The trainer was built anew in its place.
  void trainer_replaced() { recorder_.trainer_replaced(); }
  // Tokens per second over the steps of this run.
  double mean_speed() const { return trained_seconds_ > 0 ? trained_tokens_ / trained_seconds_ : 0; }

 private:
  double bits_per_byte(double loss) const;
  double time_left(int64_t step, double seconds_left) const;
  LoadSummary report_load();
  void write_metrics(const StepResult& result, double speed);
  void add_tensorboard(int64_t step, const Scalars& scalars);
  void write_prometheus(const StepReport& report);

  Trainer& trainer_;
  RunDirectory* directory_;
  Console& console_;
  RunStatus* status_;
  double bytes_per_token_;  // of the training text
  LoadRecorder recorder_;
  LoadWatch watch_;
  TraceRecorder trace_;
  PhaseTrace phases_;
  std::vector<std::vector<int64_t>> load_LE_;
  bool warned_ = false;
  int64_t last_step_ = 0;  // 0: not known
  double trained_tokens_ = 0, trained_seconds_ = 0;
  std::string tensorboard_file_;  // empty: none
  EvaluationReport evaluation_;   // the last one
};

}  // namespace engine::train
