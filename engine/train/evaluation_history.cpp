#include "engine/train/evaluation_history.h"

#include <cstdio>
#include <fstream>

#include "engine/config/json_reader.h"

namespace engine::train {

EvaluationHistory EvaluationHistory::read(const std::string& eval_jsonl) {
  EvaluationHistory history;
  std::ifstream file(eval_jsonl, std::ios::binary);
  for (std::string text; std::getline(file, text);) {
    try {
      const JsonValue line = read_json(text, {.max_bytes = int64_t{1} << 24}, ExitCode::data);
      const JsonValue *step = line.find("step"), *sets = line.find("sets");
      if (step == nullptr || sets == nullptr) continue;
      for (const JsonValue& set : sets->items) {
        const JsonValue *name = set.find("set"), *bits = set.find("bpb");
        if (name != nullptr && bits != nullptr && name->string == "held_out") history.add(step->integer, bits->number);
      }
    } catch (const JsonError&) {  // a line that was cut when a machine went down
    }
  }
  return history;
}

void EvaluationHistory::add(int64_t step, double bits_per_byte) {
  if (count_++ == 0 || bits_per_byte < best_) {
    best_ = bits_per_byte, best_step_ = step, since_best_ = 0;
  } else {
    ++since_best_;
  }
}

std::string progress_mark(const EvaluationHistory& history) {
  if (history.count() == 0) return "";
  if (history.since_best() == 0) return "new best";
  char text[160];
  std::snprintf(text, sizeof(text), "best %.3f at step %lld", history.best(),
                static_cast<long long>(history.best_step()));
  if (history.since_best() < kStalledAfter) return text;
  const std::string best = text;
  std::snprintf(text, sizeof(text), "stalled: %lld evaluations without a new best, ",
                static_cast<long long>(history.since_best()));
  return text + best;
}

}  // namespace engine::train
