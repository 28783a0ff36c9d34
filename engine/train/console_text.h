// What the console says of steps, progress and evaluations, as text: aligned for people, key=value for programs.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/data/baselines.h"
#include "engine/train/evaluate.h"
#include "engine/train/evaluation_history.h"
#include "engine/train/trainer.h"

namespace engine::train {

struct StepReport {
  StepResult result;
  double bits_per_byte = 0;  // of the training loss
  double tokens_per_second = 0;
  double seconds_left = -1;  // below zero: not known
  bool has_experts = false, may_drop = false;
  double worst_load = 0;  // largest max/mean over layers
  int64_t worst_layer = 0;
  double dropped_share = 0;
};

struct ProgressReport {
  int64_t step = 0, last_step = 0;  // last_step 0: not known
  double bits_per_byte = 0, tokens_per_second = 0;
  double seconds_left = -1;
};

struct EvaluationReport {
  int64_t step = 0;
  std::vector<EvalResult> results;
  std::vector<data::Baseline> baselines;  // of each result; empty: not measured
  EvaluationHistory history;              // this one included
};

// A table of steps in at most `width` characters a line, the less important columns left out where they do not fit.
std::string step_header(const StepReport& step, int width);
std::string step_row(const StepReport& step, int width);
std::string step_fields(const StepReport& step);

std::string progress_bar(const ProgressReport& progress, int width);
std::string progress_fields(const ProgressReport& progress);

// Lines without an end, the first one without the topic that stands before it; broken between sets.
std::string evaluation_text(const EvaluationReport& report, int width);
std::string evaluation_fields(const EvaluationReport& report);

// Text that stands behind a topic, broken between words; what is longer than a line stays whole.
std::string topic_text(const std::string& text, int width);

// "26.1k", "1.25M".
std::string short_count(double count);
// A value of key=value: quoted where it holds a space, a quote or an equals sign.
std::string field_text(const std::string& text);

}  // namespace engine::train
