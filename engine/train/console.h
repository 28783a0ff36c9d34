// What a run says while it trains: aligned lines and a progress line on a terminal, key=value lines elsewhere.
// Narration goes to stderr, results to stdout.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/train/evaluate.h"
#include "engine/train/trainer.h"

namespace engine::train {

class Console {
 public:
  // `quiet`: errors and warnings only, and on ranks other than the first nothing.
  explicit Console(bool quiet);

  void line(const std::string& topic, const std::string& text);
  void warning(const std::string& text);

  struct Step {
    StepResult result;
    double tokens_per_second = 0;
    double worst_load = 0;  // largest max/mean over layers
    int64_t worst_layer = 0;
    double dropped_share = 0;
  };
  void step(const Step& step);
  // The line at the bottom of a terminal, and a sign of life at least each minute elsewhere.
  void progress(int64_t step, int64_t total_steps, double loss, double tokens_per_second, double eta_seconds);
  // `baseline`: bits per byte of a 3-gram model on the first set; 0: none.
  void evaluation(const std::vector<EvalResult>& results, double baseline, bool is_best);
  bool is_terminal() const { return terminal_; }

 private:
  void print(const std::string& text);
  bool quiet_, terminal_;
  bool header_printed_ = false, progress_shown_ = false;
  double last_print_ = 0;
};

}  // namespace engine::train
