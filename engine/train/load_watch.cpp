#include "engine/train/load_watch.h"

#include <algorithm>

#include "engine/train/load_analysis.h"

namespace engine::train {

bool LoadWatch::lasts(State& state, bool holds, int64_t steps, int64_t long_enough) {
  if (!holds) {
    state = {};
    return false;
  }
  state.steps += steps;
  if (state.said || state.steps < long_enough) return false;
  return state.said = true;
}

std::vector<std::string> LoadWatch::look(const LoadWindow& window) {
  uneven_.resize(window.layers.size());
  dead_.resize(window.layers.size());
  std::vector<std::string> messages;
  for (size_t l = 0; l < window.layers.size(); ++l) {
    const LayerWindow& layer = window.layers[l];
    int64_t choices = 0;
    for (int64_t count : layer.tokens_per_expert) choices += count;
    if (layer.tokens == 0 || choices == 0) continue;
    const LayerLoad load =
        measure_load(layer.tokens_per_expert, choices / layer.tokens, static_cast<int64_t>(window.layers.size()));
    const bool uneven = load.beyond_chance && load.max_over_mean > kUneven;
    if (lasts(uneven_[l], uneven, window.steps(), kUnevenSteps)) {
      messages.push_back(
          print("layer %lld: expert %lld takes %.2f x its share, uneven for %lld steps (chance: up to %.2f); "
                "see switchyard experts",
                static_cast<long long>(layer.layer), static_cast<long long>(load.fullest), load.max_over_mean,
                static_cast<long long>(uneven_[l].steps), load.max_by_chance));
    }
    dead_[l].resize(layer.tokens_per_expert.size());
    for (size_t e = 0; e < dead_[l].size(); ++e) {
      const bool dead = layer.tokens_per_expert[e] == 0 && load.dead_by_chance < kReportRisk;
      if (!lasts(dead_[l][e], dead, window.steps(), kDeadSteps)) continue;
      messages.push_back(print("layer %lld: expert %zu got no token for %lld steps; see switchyard experts",
                               static_cast<long long>(layer.layer), e, static_cast<long long>(dead_[l][e].steps)));
    }
  }
  return messages;
}

}  // namespace engine::train
