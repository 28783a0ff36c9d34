// TraceRecorder: writes which experts the tokens of chosen steps took (expert_trace.h).
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "engine/train/expert_trace.h"
#include "engine/train/rank_time.h"
#include "engine/train/trainer.h"

namespace engine::train {

class TraceRecorder {
 public:
  // `path`: where this rank writes; empty: it does not. `steps` from 1.
  TraceRecorder(Trainer& trainer, const std::vector<std::string>& sources,
                std::function<size_t(int64_t sample)> source_of, std::vector<int64_t> steps, std::string path);

  // Before a step on the samples at places from first_sample on (sample_order.h).
  void begin_step(int64_t first_sample);
  void routed(size_t layer, const nn::Pass& pass, ConstTensor topk_idx_TK);
  // After it; collective. False: the file cannot be written.
  bool end_step(const StepResult& result);

 private:
  void gather();
  Trainer& trainer_;
  std::function<size_t(int64_t)> source_of_;
  std::vector<int64_t> steps_;
  std::string path_;
  TraceHeader header_;
  bool begun_ = false, tracing_ = false;
  int64_t first_sample_ = 0;
  RankTime before_;
  std::vector<int32_t> choices_LTK_;
  std::vector<int64_t> begins_;  // of each rank's choices in a layer
};

}  // namespace engine::train
