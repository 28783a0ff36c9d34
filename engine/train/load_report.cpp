#include "engine/train/load_report.h"

#include <algorithm>
#include <cmath>

namespace engine::train {

namespace {

// The floor for as many tokens as there were.
void add_floor(LayerLoad& load, const Routing& routing, std::span<const int64_t> counts, int64_t layers) {
  const double mean = routing.mean();
  const CountRange range = chance_counts(routing, routing.experts * layers, kReportRisk / 2);
  load.max_by_chance = static_cast<double>(range.high) / mean;
  load.min_by_chance = static_cast<double>(range.low) / mean;
  load.variation_expected = chance_variation(routing);
  load.variation_by_chance = chance_variation_limit(routing, layers, kReportRisk / 2);
  load.entropy_by_chance = std::exp(-load.variation_by_chance * load.variation_by_chance / 2);
  load.dead_by_chance = chance_dead(routing);
  load.beyond_chance = load.variation > load.variation_by_chance ||
                       counts[static_cast<size_t>(load.fullest)] > range.high ||
                       counts[static_cast<size_t>(load.emptiest)] < range.low;
}

}  // namespace

LayerLoad measure_load(std::span<const int64_t> tokens_per_expert, int64_t slots, int64_t layers) {
  LayerLoad load;
  const int64_t experts = static_cast<int64_t>(tokens_per_expert.size());
  const double E = static_cast<double>(experts);
  int64_t choices = 0;
  for (int64_t count : tokens_per_expert) choices += count;
  if (choices == 0) {
    load.dead = experts;
    return load;
  }
  double squares = 0, entropy = 0;
  load.min_over_mean = E;
  for (int64_t e = 0; e < experts; ++e) {
    const int64_t count = tokens_per_expert[static_cast<size_t>(e)];
    const double share = static_cast<double>(count) / static_cast<double>(choices), relative = share * E;
    if (relative > load.max_over_mean) load.max_over_mean = relative, load.fullest = e;
    if (relative < load.min_over_mean) load.min_over_mean = relative, load.emptiest = e;
    squares += (relative - 1) * (relative - 1);
    load.mean_violation += std::abs(relative - 1) / E;
    if (count > 0) entropy -= share * std::log(share);
    load.dead += count == 0 ? 1 : 0;
  }
  load.violation = load.max_over_mean - 1;
  load.variation = std::sqrt(squares / E);
  load.entropy = std::exp(entropy) / E;
  add_floor(load, {.tokens = choices / slots, .experts = experts, .slots = slots}, tokens_per_expert, layers);
  return load;
}

LoadSummary summarize(const LoadWindow& window) {
  LoadSummary summary;
  int64_t choices = 0, dropped = 0;
  for (const LayerWindow& layer : window.layers) {
    int64_t largest = 0, sum = 0;
    for (int64_t count : layer.tokens_per_expert) largest = std::max(largest, count), sum += count;
    const double experts = static_cast<double>(layer.tokens_per_expert.size());
    const double load = sum > 0 ? static_cast<double>(largest) * experts / static_cast<double>(sum) : 0;
    if (load > summary.worst_load) summary.worst_load = load, summary.worst_layer = layer.layer;
    choices += sum;
    dropped += layer.dropped;
  }
  summary.dropped_share = choices > 0 ? static_cast<double>(dropped) / static_cast<double>(choices) : 0;
  return summary;
}

Specialisation measure_specialisation(const std::vector<std::vector<int64_t>>& counts_SE, int64_t layers) {
  Specialisation result;
  if (counts_SE.empty()) return result;
  std::vector<double> by_expert(counts_SE[0].size()), by_row(counts_SE.size());
  double N = 0;
  for (size_t s = 0; s < counts_SE.size(); ++s) {
    for (size_t e = 0; e < by_expert.size(); ++e) {
      const double n = static_cast<double>(counts_SE[s][e]);
      by_expert[e] += n, by_row[s] += n, N += n;
    }
  }
  if (N == 0) return result;
  double rows = 0;
  for (size_t s = 0; s < by_row.size(); ++s) {
    if (by_row[s] == 0) continue;
    ++rows;
    result.of -= by_row[s] / N * std::log2(by_row[s] / N);
    for (size_t e = 0; e < by_expert.size(); ++e) {
      const double n = static_cast<double>(counts_SE[s][e]);
      if (n > 0) result.bits += n / N * std::log2(n * N / (by_expert[e] * by_row[s]));
    }
  }
  const double k = (static_cast<double>(by_expert.size()) - 1) * (rows - 1);
  const double x = std::log(static_cast<double>(std::max<int64_t>(1, layers)) / kReportRisk);
  result.by_chance = k > 0 ? (k + 2 * std::sqrt(k * x) + 2 * x) / (2 * N * std::log(2.0)) : 0;
  return result;
}

std::vector<std::vector<double>> relative_use(const std::vector<std::vector<int64_t>>& counts_SE) {
  std::vector<std::vector<double>> use_SE;
  if (counts_SE.empty()) return use_SE;
  std::vector<int64_t> by_expert(counts_SE[0].size());
  int64_t all = 0;
  for (const std::vector<int64_t>& row : counts_SE) {
    for (size_t e = 0; e < row.size(); ++e) by_expert[e] += row[e], all += row[e];
  }
  for (const std::vector<int64_t>& row : counts_SE) {
    int64_t sum = 0;
    for (int64_t n : row) sum += n;
    std::vector<double>& use = use_SE.emplace_back(row.size());
    for (size_t e = 0; e < row.size(); ++e) {
      const double even = static_cast<double>(by_expert[e]) * static_cast<double>(sum);
      if (even > 0) use[e] = static_cast<double>(row[e]) * static_cast<double>(all) / even;
    }
  }
  return use_SE;
}

double percentile(std::vector<double> values, double share) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const double at = share * static_cast<double>(values.size() - 1);
  const size_t below = static_cast<size_t>(at);
  if (below + 1 >= values.size()) return values.back();
  return values[below] + (at - static_cast<double>(below)) * (values[below + 1] - values[below]);
}

}  // namespace engine::train
