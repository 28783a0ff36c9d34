// Evaluation in the loop of a run: the held-out text of every source, and text from elsewhere.
#pragma once

#include <cstdint>
#include <optional>

#include "engine/data/corpus.h"
#include "engine/train/console.h"
#include "engine/train/evaluate.h"
#include "engine/train/run_directory.h"
#include "engine/train/trainer.h"

namespace engine::train {

class RunEvaluation {
 public:
  // `directory` takes eval.jsonl; null: nothing is written.
  RunEvaluation(Trainer& trainer, const data::Corpus& corpus, RunDirectory* directory, Console& console);

  // Says what a model of three bytes reaches on the same held-out text; takes a moment, on this rank alone.
  void measure_baseline();
  // Collective. Of each set at most about max_tokens tokens, 0: all.
  void run(int64_t max_tokens);

 private:
  Trainer& trainer_;
  const data::Corpus& corpus_;
  RunDirectory* directory_;
  Console& console_;
  Evaluator evaluator_;
  std::optional<double> best_;
  double three_gram_ = 0;  // bits per byte; 0: not measured, or nothing is held out
};

}  // namespace engine::train
