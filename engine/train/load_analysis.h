// What experts.jsonl says about a run: the verdict, what it rests on, and what to try.
//
// The verdict goes by cost: a share of the step's time, choices dropped, experts that learn nothing. Chance only
// decides what is shown as chance: a lasting excess of 3 % is reported and still balanced.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/config/config.h"
#include "engine/train/load_log.h"
#include "engine/train/load_report.h"

namespace engine::train {

struct ExpertDeath {
  int64_t expert = 0;
  int64_t step = 0;  // the first without a token from then on; 1: it never had one
};

// One MoE layer over the steps that are judged.
struct LayerAnalysis {
  LayerWindow window{};
  LayerLoad load{};
  double drop_rate = 0, drop_by_chance = 0;  // of its choices
  Specialisation by_source{}, by_evaluation{};
  std::vector<std::vector<int64_t>> tokens_by_evaluation{};  // [sets of the last evaluation][E]
  std::vector<ExpertDeath> deaths{};
  std::vector<int64_t> starved{};  // experts with less than a tenth of their share
};

struct RankAnalysis {
  RankWindow window{};
  double overload = 1;    // its rows over the mean of all ranks, all layers
  double wait_share = 0;  // of the time of the steps
};

struct Advice {
  std::string evidence, suggestion;
};

struct LoadAnalysis {
  std::string word{};                     // balanced, skewed or collapsed
  std::string verdict{};                  // the sentence that begins with it
  int64_t first_step = 0, last_step = 0;  // judged: the last quarter of the windows
  std::vector<LayerAnalysis> layers{};
  std::vector<RankAnalysis> ranks{};
  size_t worst = 0;          // index of the layer with the largest max/mean
  double expert_share = 0;   // of the time of the steps, in experts
  double time_share = 0;     // of it at stake
  std::string time_basis{};  // how that is known
  double drop_rate = 0, drop_by_chance = 0;
  int64_t dead = 0, beyond_chance = 0;           // experts, layers
  const EvaluationWindow* evaluation = nullptr;  // the last one
  std::vector<Advice> advice{};
};

// `history` outlives the result.
LoadAnalysis analyse_load(const LoadHistory& history, const Config& config);

// Rules with their evidence (load_advice.cpp).
std::vector<Advice> advise(const LoadAnalysis& analysis, const Config& config);

// printf into a string.
std::string print(const char* format, ...) __attribute__((format(printf, 1, 2)));

}  // namespace engine::train
