// Evaluation in the loop of a run: the held-out text of every source, and text from elsewhere.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/data/corpus.h"
#include "engine/train/console.h"
#include "engine/train/evaluate.h"
#include "engine/train/run_directory.h"
#include "engine/train/trainer.h"

namespace engine::train {

class RunEvaluation {
 public:
  // `directory` takes eval.jsonl, eval/ and samples/; null: nothing is written.
  RunEvaluation(Trainer& trainer, const data::Corpus& corpus, RunDirectory* directory, Console& console);

  // What earlier evaluations of the run found, and what short contexts alone reach on the same text (eval.baselines);
  // takes a moment, on this rank alone.
  void begin();
  // Collective. Of each set at most about max_tokens tokens, 0: all. The results of the last one.
  const EvaluationReport& run(int64_t max_tokens);
  // Whether a stop was requested (stop_request.h) during the last one, of which nothing is recorded then.
  bool stopped() const { return stopped_; }
  // Collective. Whether eval.jsonl has nothing of the trainer's step, since a run was stopped before.
  bool is_missing() const;

 private:
  struct Set {
    std::string name;
    const data::TokenSet* tokens;
    bool held_out;
  };
  void evaluate(int64_t max_tokens);
  void add_held_out_total();
  void write() const;
  void write_samples();

  Trainer& trainer_;
  const data::Corpus& corpus_;
  RunDirectory* directory_;
  Console& console_;
  Evaluator evaluator_;
  std::vector<Set> sets_;
  std::vector<data::Baseline> baselines_;  // of the held-out text as a whole, then of each set
  EvaluationReport report_;
  bool stopped_ = false;
};

}  // namespace engine::train
