#include "engine/train/load_simulation.h"

#include <algorithm>
#include <numeric>

#include "engine/core/error.h"
#include "moe/capacity.h"

namespace engine::train {

TraceCounts::TraceCounts(const ExpertTrace& trace) : header_(trace.header), steps_(trace.steps.size()) {
  const size_t L = layers(), G = static_cast<size_t>(header_.granules), E = static_cast<size_t>(header_.experts);
  const size_t T = static_cast<size_t>(header_.tokens()), K = static_cast<size_t>(header_.slots);
  const size_t seq_len = static_cast<size_t>(header_.seq_len);
  counts_.resize(steps_ * L * G * E);
  by_source_.assign(L, std::vector<std::vector<int64_t>>(header_.sources.size(), std::vector<int64_t>(E)));
  for (size_t s = 0; s < steps_; ++s) {
    const TraceStep& step = trace.steps[s];
    seconds_ += step.seconds / static_cast<double>(steps_);
    expert_seconds_ += step.expert_seconds / static_cast<double>(steps_);
    for (size_t l = 0; l < L; ++l) {
      for (size_t t = 0; t < T; ++t) {
        int64_t* counts = counts_.data() + ((s * L + l) * G + t * G / T) * E;
        const size_t source = step.sources[t / seq_len];
        for (size_t k = 0; k < K; ++k) {
          const uint16_t expert = step.choices_LTK[(l * T + t) * K + k];
          if (expert == kNotRouted) continue;
          ++counts[expert];
          if (source < header_.sources.size()) ++by_source_[l][source][expert];
        }
      }
    }
  }
}

const int64_t* TraceCounts::at(size_t step, size_t layer, int64_t granule) const {
  const size_t index = (step * layers() + layer) * static_cast<size_t>(header_.granules) + static_cast<size_t>(granule);
  return counts_.data() + index * static_cast<size_t>(header_.experts);
}

std::vector<int64_t> TraceCounts::total(size_t layer) const {
  std::vector<int64_t> sums(static_cast<size_t>(header_.experts));
  for (size_t s = 0; s < steps_; ++s) {
    for (int64_t g = 0; g < header_.granules; ++g) {
      for (size_t e = 0; e < sums.size(); ++e) sums[e] += at(s, layer, g)[e];
    }
  }
  return sums;
}

namespace {

// Rows by rank in each step of each layer, as a layout makes them.
struct Tally {
  Tally(size_t layers, int64_t ranks) : rows_LR(layers, std::vector<int64_t>(static_cast<size_t>(ranks))) {}
  std::vector<std::vector<int64_t>> rows_LR;
  double overloads = 0, fullest = 0;  // sums over steps and layers
  int64_t steps_and_layers = 0;

  void add(size_t layer, const std::vector<double>& rows) {
    const double sum = std::accumulate(rows.begin(), rows.end(), 0.0),
                 most = *std::max_element(rows.begin(), rows.end());
    overloads += sum > 0 ? most * static_cast<double>(rows.size()) / sum : 1;
    fullest += most;
    ++steps_and_layers;
    for (size_t r = 0; r < rows.size(); ++r) rows_LR[layer][r] += static_cast<int64_t>(rows[r]);
  }
};

Simulated finish(Tally tally, const TraceCounts& counts, double ranks, int64_t choices) {
  Simulated result{.rows_LR = std::move(tally.rows_LR)};
  for (const std::vector<int64_t>& rows : result.rows_LR) {
    const double sum = static_cast<double>(std::accumulate(rows.begin(), rows.end(), int64_t{0}));
    const double most = static_cast<double>(*std::max_element(rows.begin(), rows.end()));
    if (sum > 0) result.overload = std::max(result.overload, most * static_cast<double>(rows.size()) / sum);
  }
  const double steps = static_cast<double>(counts.steps());
  result.step_overload = tally.overloads / static_cast<double>(std::max<int64_t>(1, tally.steps_and_layers));
  const double rows_per_step = static_cast<double>(choices) / steps;
  const double seconds_per_row = rows_per_step > 0 ? counts.expert_seconds() / rows_per_step : 0;
  const double other = counts.seconds() * static_cast<double>(counts.header().ranks) - counts.expert_seconds();
  result.step_seconds = other / ranks + tally.fullest / steps * seconds_per_row;
  return result;
}

}  // namespace

Simulated simulate(const TraceCounts& counts, const Layout& layout) {
  const TraceHeader& header = counts.header();
  const int64_t G = header.granules, E = header.experts;
  ENSURE(layout.ranks % layout.ep_size == 0 && layout.ranks <= G, layout.ranks, " ranks, ep_size ", layout.ep_size);
  const int64_t places = layout.capacity_factor > 0
                             ? moe::expert_capacity(header.tokens() / G, header.slots, E, layout.capacity_factor)
                             : header.tokens();
  Tally tally(counts.layers(), layout.ranks);
  std::vector<double> rows(static_cast<size_t>(layout.ranks));
  int64_t choices = 0, dropped = 0;
  for (size_t l = 0; l < counts.layers(); ++l) {
    const std::vector<int32_t> rank_of = layout.placement.layer(l, E, layout.ep_size);
    for (size_t s = 0; s < counts.steps(); ++s) {
      std::fill(rows.begin(), rows.end(), 0.0);
      for (int64_t g = 0; g < G; ++g) {
        const int64_t first = g * layout.ranks / G / layout.ep_size * layout.ep_size;  // of the ranks with all experts
        for (int64_t e = 0; e < E; ++e) {
          const int64_t n = counts.at(s, l, g)[e], kept = std::min(n, places);
          choices += n, dropped += n - kept;
          rows[static_cast<size_t>(first + rank_of[static_cast<size_t>(e)])] += static_cast<double>(kept);
        }
      }
      tally.add(l, rows);
    }
  }
  Simulated result = finish(std::move(tally), counts, static_cast<double>(layout.ranks), choices);
  result.drop_rate = choices > 0 ? static_cast<double>(dropped) / static_cast<double>(choices) : 0;
  return result;
}

moe::ExpertPlacement plan_placement(const TraceCounts& counts, int64_t ep_size) {
  moe::ExpertPlacement placement{.ranks = ep_size, .rank_of_expert_LE = {}};
  for (size_t l = 0; l < counts.layers(); ++l) {
    placement.rank_of_expert_LE.push_back(moe::spread_experts(counts.total(l), ep_size));
  }
  return placement;
}

Simulated simulate_replicas(const TraceCounts& counts, int64_t gpus,
                            const std::vector<std::vector<int64_t>>& expert_of_slot_L) {
  Tally tally(counts.layers(), gpus);
  int64_t choices = 0;
  for (size_t l = 0; l < counts.layers(); ++l) {
    const std::vector<int64_t>& slots = expert_of_slot_L[l];
    std::vector<double> copies(static_cast<size_t>(counts.header().experts));
    for (int64_t e : slots) ++copies[static_cast<size_t>(e)];
    for (size_t s = 0; s < counts.steps(); ++s) {
      std::vector<int64_t> load(copies.size());
      for (int64_t g = 0; g < counts.header().granules; ++g) {
        for (size_t e = 0; e < load.size(); ++e) load[e] += counts.at(s, l, g)[e];
      }
      for (int64_t n : load) choices += n;
      std::vector<double> rows(static_cast<size_t>(gpus));
      for (size_t slot = 0; slot < slots.size(); ++slot) {
        const size_t e = static_cast<size_t>(slots[slot]);
        rows[slot * static_cast<size_t>(gpus) / slots.size()] += static_cast<double>(load[e]) / copies[e];
      }
      tally.add(l, rows);
    }
  }
  return finish(std::move(tally), counts, static_cast<double>(gpus), choices);
}

}  // namespace engine::train
