#include "engine/train/load_analysis.h"

#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <cstdio>

#include "moe/capacity.h"

namespace engine::train {

std::string print(const char* format, ...) {
  char text[512];
  va_list values;
  va_start(values, format);
  std::vsnprintf(text, sizeof(text), format, values);
  va_end(values);
  return text;
}

namespace {

constexpr double kTimeAtStake = 0.05;   // of the step's time, from which on a load is skewed
constexpr double kDropsAtStake = 0.02;  // of the choices, beyond what chance drops
constexpr double kDeadShare = 0.1;      // of a layer's experts, from which on it has collapsed
constexpr double kUseOfCollapsed = 0.5;
constexpr double kStarved = 0.1;  // of its share

LoadWindow judged_window(const LoadHistory& history) {
  const size_t count = std::max<size_t>(1, history.windows.size() / 4);
  LoadWindow window = history.windows[history.windows.size() - count];
  for (size_t i = history.windows.size() - count + 1; i < history.windows.size(); ++i) {
    window = merge(window, history.windows[i]);
  }
  return window;
}

// The windows in which each dead expert had its last token.
std::vector<ExpertDeath> find_deaths(const LoadHistory& history, size_t layer, const LayerWindow& now) {
  std::vector<ExpertDeath> deaths;
  for (size_t e = 0; e < now.tokens_per_expert.size(); ++e) {
    if (now.tokens_per_expert[e] > 0) continue;
    ExpertDeath death{.expert = static_cast<int64_t>(e), .step = 1};
    for (const LoadWindow& window : history.windows) {
      if (window.layers[layer].tokens_per_expert[e] > 0) death.step = window.last_step + 1;
    }
    deaths.push_back(death);
  }
  return deaths;
}

// What a router that chooses at random would lose to capacity.
double dropped_by_chance(const Config& config) {
  const ModelConfig& model = config.model;
  if (!model.router.capacity_factor) return 0;
  const int64_t tokens = config.sequences_per_granule() * config.train.seq_len;
  const int64_t capacity =
      moe::expert_capacity(tokens, model.num_experts_per_tok, model.num_experts, *model.router.capacity_factor);
  return chance_dropped({.tokens = tokens, .experts = model.num_experts, .slots = model.num_experts_per_tok}, capacity);
}

LayerAnalysis analyse_layer(const LoadHistory& history, size_t index, LayerWindow window, const Config& config) {
  const int64_t layers = static_cast<int64_t>(history.windows[0].layers.size());
  LayerAnalysis layer{.window = std::move(window)};
  int64_t choices = 0;
  for (int64_t count : layer.window.tokens_per_expert) choices += count;
  const int64_t slots = std::max<int64_t>(1, layer.window.tokens > 0 ? choices / layer.window.tokens : 1);
  layer.load = measure_load(layer.window.tokens_per_expert, slots, layers);
  layer.drop_rate = choices > 0 ? static_cast<double>(layer.window.dropped) / static_cast<double>(choices) : 0;
  layer.drop_by_chance = dropped_by_chance(config);
  layer.by_source = measure_specialisation(layer.window.tokens_by_source, layers);
  layer.deaths = find_deaths(history, index, layer.window);
  const double mean = static_cast<double>(choices) / static_cast<double>(layer.window.tokens_per_expert.size());
  for (size_t e = 0; e < layer.window.tokens_per_expert.size(); ++e) {
    const int64_t count = layer.window.tokens_per_expert[e];
    if (count > 0 && static_cast<double>(count) < kStarved * mean) layer.starved.push_back(static_cast<int64_t>(e));
  }
  return layer;
}

void analyse_ranks(LoadAnalysis& analysis, const LoadWindow& window) {
  double all = 0, expert_seconds = 0;
  for (const RankWindow& rank : window.ranks) {
    for (int64_t rows : rank.rows) all += static_cast<double>(rows);
    expert_seconds += rank.expert_seconds;
  }
  const double ranks = static_cast<double>(window.ranks.size());
  for (const RankWindow& rank : window.ranks) {
    double rows = 0;
    for (int64_t n : rank.rows) rows += static_cast<double>(n);
    analysis.ranks.push_back({.window = rank,
                              .overload = all > 0 ? rows * ranks / all : 1,
                              .wait_share = window.seconds > 0 ? rank.wait_seconds / window.seconds : 0});
  }
  if (ranks > 0 && window.seconds > 0) analysis.expert_share = expert_seconds / (ranks * window.seconds);
}

// The share of a step that an even load would save.
void estimate_time(LoadAnalysis& analysis) {
  double waits = 0, rank_excess = 0, expert_excess = 0;
  for (const RankAnalysis& rank : analysis.ranks) waits += rank.wait_share / static_cast<double>(analysis.ranks.size());
  for (const LayerAnalysis& layer : analysis.layers) {
    const double part = 1 / static_cast<double>(analysis.layers.size());
    rank_excess += (layer.window.mean_overload - 1) * part;
    if (layer.load.beyond_chance) expert_excess += layer.load.violation * part;
  }
  if (analysis.ranks.size() > 1 && waits > 0) {
    analysis.time_share = waits;
    analysis.time_basis = "measured waiting of ranks for each other";
  } else if (analysis.ranks.size() > 1) {
    analysis.time_share = analysis.expert_share * rank_excess;
    analysis.time_basis = "share of the step in experts x excess of the fullest rank over the mean";
  } else {
    const double more = analysis.expert_share * expert_excess;  // than with an even load
    analysis.time_share = more / (1 + more);
    analysis.time_basis =
        "if each expert had a rank of its own: x / (1 + x), x = share of the step in experts x MaxVio beyond chance";
  }
}

std::string cost_text(const LoadAnalysis& a) {
  std::string costs;
  const auto add = [&costs](const std::string& cost) { costs += (costs.empty() ? "" : ", ") + cost; };
  if (a.dead > 0) add(print("quality: %lld experts get no token", static_cast<long long>(a.dead)));
  if (a.drop_rate - a.drop_by_chance >= kDropsAtStake) {
    add(print("quality: %.1f %% of the choices are dropped (%.1f %% by chance)", 100 * a.drop_rate,
              100 * a.drop_by_chance));
  }
  if (a.time_share >= 0.005) {
    add(print("time: %.1f %% of a step%s", 100 * a.time_share,
              a.ranks.size() > 1 ? "" : ", were each expert on a rank of its own"));
  }
  return costs.empty() ? "costs neither time nor quality worth mentioning" : "at stake: " + costs;
}

void judge(LoadAnalysis& a) {
  bool collapsed = false, starved = false;
  for (const LayerAnalysis& layer : a.layers) {
    const double dead = static_cast<double>(layer.load.dead);
    collapsed |= layer.load.dead_by_chance < kReportRisk &&
                 dead >= kDeadShare * static_cast<double>(layer.window.tokens_per_expert.size()) && dead > 0;
    collapsed |= layer.load.beyond_chance && layer.load.entropy < kUseOfCollapsed;
    starved |= layer.load.beyond_chance && !layer.starved.empty();
  }
  const bool skewed =
      a.dead > 0 || starved || a.time_share >= kTimeAtStake || a.drop_rate - a.drop_by_chance >= kDropsAtStake;
  a.word = collapsed ? "collapsed" : skewed ? "skewed" : "balanced";
  const LayerAnalysis& worst = a.layers[a.worst];
  a.verdict =
      print("%s: in the worst layer (%lld) expert %lld takes %.2f x its share (chance: up to %.2f); %s", a.word.c_str(),
            static_cast<long long>(worst.window.layer), static_cast<long long>(worst.load.fullest),
            worst.load.max_over_mean, worst.load.max_by_chance, cost_text(a).c_str());
}

}  // namespace

LoadAnalysis analyse_load(const LoadHistory& history, const Config& config) {
  LoadWindow window = judged_window(history);
  LoadAnalysis a{.first_step = window.first_step, .last_step = window.last_step};
  if (!history.evaluations.empty() && !history.evaluations.back().sets.empty()) {
    a.evaluation = &history.evaluations.back();
  }
  int64_t choices = 0, dropped = 0;
  for (size_t l = 0; l < window.layers.size(); ++l) {
    a.layers.push_back(analyse_layer(history, l, std::move(window.layers[l]), config));
    LayerAnalysis& layer = a.layers.back();
    if (layer.load.max_over_mean > a.layers[a.worst].load.max_over_mean) a.worst = l;
    for (int64_t count : layer.window.tokens_per_expert) choices += count;
    dropped += layer.window.dropped;
    if (layer.load.dead_by_chance < kReportRisk) a.dead += layer.load.dead;
    a.beyond_chance += layer.load.beyond_chance ? 1 : 0;
    if (a.evaluation == nullptr) continue;
    for (const EvaluationLoad& set : a.evaluation->sets) layer.tokens_by_evaluation.push_back(set.tokens_per_expert[l]);
    layer.by_evaluation =
        measure_specialisation(layer.tokens_by_evaluation, static_cast<int64_t>(history.windows[0].layers.size()));
  }
  a.drop_rate = choices > 0 ? static_cast<double>(dropped) / static_cast<double>(choices) : 0;
  a.drop_by_chance = dropped_by_chance(config);
  analyse_ranks(a, window);
  estimate_time(a);
  judge(a);
  a.advice = advise(a, config);
  return a;
}

}  // namespace engine::train
