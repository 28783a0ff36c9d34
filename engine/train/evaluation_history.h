// Which evaluation of a run was the best so far.
#pragma once

#include <cstdint>
#include <string>

namespace engine::train {

class EvaluationHistory {
 public:
  // Of a run directory's eval.jsonl; empty where there is none.
  static EvaluationHistory read(const std::string& eval_jsonl);

  // Bits per byte of the whole held-out text after `step` steps.
  void add(int64_t step, double bits_per_byte);

  int64_t count() const { return count_; }
  double best() const { return best_; }
  int64_t best_step() const { return best_step_; }    // 0: none
  int64_t since_best() const { return since_best_; }  // evaluations after it

 private:
  int64_t count_ = 0, best_step_ = 0, since_best_ = 0;
  double best_ = 0;
};

inline constexpr int64_t kStalledAfter = 3;  // evaluations without a new best

// "new best", "best 2.411 at step 300", "stalled: 3 evaluations without a new best, best ..."; empty before the first.
std::string progress_mark(const EvaluationHistory& history);

}  // namespace engine::train
