// experts.jsonl: what a run records of its experts, one window of steps a line.
//
//   step, first_step      last and first step of the window (from 1)
//   seconds               these steps took
//   ep_size               ranks that together hold all experts once
//   sources               names of the data sources
//   layers[]              of each MoE layer; sums and means over the window's tokens on all ranks
//     layer               its number in the model
//     tokens              routed tokens
//     tokens_per_expert   [E] choices of each expert, before drops
//     tokens_by_source    [sources][E] the same by data source
//     dropped             choices that found no place
//     probability         [E] mean router probability
//     router_entropy      mean entropy of the router's softmax, nats
//     first_weight        mean weight of a token's first choice
//     aux_loss, z_loss    mean over steps, before their coefficients
//     expert_bias         [E] after the last step; absent without one
//     overload            [mean, largest] over steps: rows at the fullest rank over the mean of all ranks
//   ranks[]               of each rank
//     rows                [layers] rows its experts computed
//     bytes_sent          rows sent to other ranks
//     expert_seconds      time in its experts
//     exchange_seconds    time in dispatch and combine, waiting included
//     wait_seconds        of it waiting for other ranks
// A line may instead hold the load of an evaluation:
//   step                  after which it was
//   evaluation[]          set: its name; tokens_per_expert: [layers][E]
//
// All but `seconds`, `ep_size`, `overload` and `ranks` is the same on any layout. Beyond a limit neighbouring windows
// become one, so that the file stays small.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/train/run_directory.h"

namespace engine::train {

struct LayerWindow {
  int64_t layer = 0, tokens = 0, dropped = 0;
  std::vector<int64_t> tokens_per_expert{};
  std::vector<std::vector<int64_t>> tokens_by_source{};
  std::vector<double> probability{}, expert_bias{};
  double router_entropy = 0, first_weight = 0, aux_loss = 0, z_loss = 0;
  double mean_overload = 1, largest_overload = 1;
};

struct RankWindow {
  std::vector<int64_t> rows{};
  int64_t bytes_sent = 0;
  double expert_seconds = 0, exchange_seconds = 0, wait_seconds = 0;
};

struct LoadWindow {
  int64_t first_step = 0, last_step = 0, ep_size = 1;
  double seconds = 0;
  std::vector<std::string> sources{};
  std::vector<LayerWindow> layers{};
  std::vector<RankWindow> ranks{};
  int64_t steps() const { return last_step - first_step + 1; }
};

struct EvaluationLoad {
  std::string set;
  std::vector<std::vector<int64_t>> tokens_per_expert;  // by MoE layer
};
struct EvaluationWindow {
  int64_t step = 0;
  std::vector<EvaluationLoad> sets;
};

// The window followed by the next one. What describes ranks is kept only where both have as many.
LoadWindow merge(const LoadWindow& first, const LoadWindow& second);

std::string to_json(const LoadWindow& window);
std::string to_json(const EvaluationWindow& window);

struct LoadHistory {
  std::vector<LoadWindow> windows;  // by step
  std::vector<EvaluationWindow> evaluations;
};
// Throws Error(data) for a file that is not of this form, Error(usage) where there is none.
LoadHistory read_load_history(const std::string& path);

// Appends a line to experts.jsonl; a file that grew beyond max_bytes is halved by merging pairs of windows.
void append_load(RunDirectory& directory, const std::string& line, int64_t max_bytes = int64_t{16} << 20);

}  // namespace engine::train
