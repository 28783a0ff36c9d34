// LoadRecorder: expert load of the steps since the last report. It takes part in every step and takes no memory then;
// ranks exchange what they counted once per report (and after each kRowSteps steps of a longer one).
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "engine/data/corpus.h"
#include "engine/train/load_log.h"
#include "engine/train/rank_time.h"
#include "engine/train/trace_recorder.h"
#include "engine/train/trainer.h"

namespace engine::train {

// Of the sources trained on, in their order.
std::vector<std::string> source_names(const data::Corpus& corpus);

class LoadRecorder final : public moe::RoutingObserver {
 public:
  // Observes the routing of the trainer's model. source_of(n): the index in `sources` of sample n.
  LoadRecorder(Trainer& trainer, std::vector<std::string> sources, std::function<size_t(int64_t sample)> source_of);
  ~LoadRecorder() override;
  LoadRecorder(const LoadRecorder&) = delete;

  // Before a step on the samples at places from first_sample on (sample_order.h).
  void begin_step(int64_t first_sample);
  // After it.
  void end_step(const StepResult& result);
  // Shows the choices to a trace, too.
  void trace_with(TraceRecorder* trace) { trace_ = trace; }
  // The trainer was built anew in its place.
  void trainer_replaced();
  // The steps since the last call; collective.
  LoadWindow finish();

  void restart() override;
  void routed(size_t layer, const nn::Pass& pass, ConstTensor topk_idx_TK) override;

 private:
  static constexpr size_t kRowSteps = 64;
  void begin_window();
  void fold_rows();
  void collect_sources();
  void collect_ranks();

  Trainer& trainer_;
  std::vector<std::string> sources_;
  std::function<size_t(int64_t)> source_of_;
  size_t layers_, experts_;
  int64_t first_sample_ = 0;
  std::vector<int64_t> step_by_source_, by_source_;  // [layers][sources][experts], of this rank
  std::vector<int64_t> step_rows_, all_rows_;        // [kRowSteps][layers] of this rank, and of every rank
  size_t row_steps_ = 0;                             // of step_rows_ in use
  RankTime before_, spent_;                          // before this step; in the window
  LoadWindow window_;
  TraceRecorder* trace_ = nullptr;
};

}  // namespace engine::train
