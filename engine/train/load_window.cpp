#include "engine/train/load_window.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "engine/train/load_report.h"

namespace engine::train {

using Json = nlohmann::ordered_json;

LoadWindow::LoadWindow(Trainer& trainer)
    : trainer_(trainer), counts_(trainer.tokens_per_expert().size()), dropped_(trainer.dropped().size()) {}

void LoadWindow::add() {
  for (size_t i = 0; i < counts_.size(); ++i) counts_[i] += trainer_.tokens_per_expert()[i];
  for (size_t i = 0; i < dropped_.size(); ++i) dropped_[i] += trainer_.dropped()[i];
}

LoadWindow::Summary LoadWindow::finish(int64_t step) {
  const size_t E = static_cast<size_t>(trainer_.config().model.num_experts);
  Summary summary;
  Json layers = Json::array();
  int64_t pairs = 0, dropped = 0;
  for (size_t l = 0; l < dropped_.size(); ++l) {
    moe::MoeLayer& layer = *trainer_.model().moe_layers()[l];
    const std::span<const int64_t> counts{counts_.data() + l * E, E};
    const double load = measure_load(counts).max_over_mean;
    if (load > summary.worst_load) summary.worst_load = load, summary.worst_layer = layer.layer();
    const moe::LoadStatistics& last = layer.statistics();  // of the last step
    double tokens = 0, entropy = 0, first_weight = 0;
    for (size_t g = 0; g < last.counted_G.size(); ++g) {
      tokens += static_cast<double>(last.counted_G[g]);
      entropy += last.entropy_sums_G[g];
      first_weight += last.first_weight_sums_G[g];
    }
    layers.push_back({{"layer", layer.layer()},
                      {"tokens_per_expert", counts},
                      {"dropped", dropped_[l]},
                      {"router_entropy", tokens > 0 ? entropy / tokens : 0.0},
                      {"first_weight", tokens > 0 ? first_weight / tokens : 0.0}});
    for (int64_t count : counts) pairs += count;
    dropped += dropped_[l];
  }
  summary.dropped_share = pairs > 0 ? static_cast<double>(dropped) / static_cast<double>(pairs) : 0;
  if (!layers.empty()) summary.json = Json{{"step", step}, {"layers", layers}}.dump();
  std::fill(counts_.begin(), counts_.end(), 0);
  std::fill(dropped_.begin(), dropped_.end(), 0);
  return summary;
}

}  // namespace engine::train
