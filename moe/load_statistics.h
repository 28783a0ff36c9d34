// What a MoE layer records of a training step, by granule.
//
// A rank fills the granules it computes and leaves the others zero, so that a sum over ranks gives the whole step.
// Sums over tokens are chains in token order and go on from pass to pass.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "moe/routing_sums.h"

namespace moe {

struct LoadStatistics {
  LoadStatistics(int64_t granules, int64_t experts)
      : num_experts(experts),
        tokens_per_expert_GE(static_cast<size_t>(granules * experts)),
        dropped_G(static_cast<size_t>(granules)),
        counted_G(static_cast<size_t>(granules)),
        probability_sums_GE(static_cast<size_t>(granules * experts)),
        aux_sums_G(static_cast<size_t>(granules)),
        z_sums_G(static_cast<size_t>(granules)),
        entropy_sums_G(static_cast<size_t>(granules)),
        first_weight_sums_G(static_cast<size_t>(granules)) {}

  void clear() {
    each_count([](std::vector<int64_t>& counts) { std::fill(counts.begin(), counts.end(), 0); });
    each_sum([](std::vector<double>& sums) { std::fill(sums.begin(), sums.end(), 0.0); });
    rows = 0;
  }

  // Of every granule, [G, routing_sums_width(E)] and [G].
  void take(const double* sums_GW, const int64_t* dropped) {
    const size_t E = static_cast<size_t>(num_experts);
    for (size_t g = 0; g < counted_G.size(); ++g, sums_GW += routing_sums_width(num_experts)) {
      for (size_t e = 0; e < E; ++e) {
        probability_sums_GE[g * E + e] = sums_GW[e];
        tokens_per_expert_GE[g * E + e] = static_cast<int64_t>(sums_GW[E + e]);
      }
      const double* others = sums_GW + 2 * E;
      counted_G[g] = static_cast<int64_t>(others[kCounted]);
      z_sums_G[g] = others[kSquaredLse];
      entropy_sums_G[g] = others[kEntropy];
      first_weight_sums_G[g] = others[kFirstWeight];
      aux_sums_G[g] = others[kAuxLoss];
      dropped_G[g] = dropped[g];
    }
  }

  // What ranks add up.
  template <class Visit>
  void each_count(Visit visit) {
    visit(tokens_per_expert_GE), visit(dropped_G), visit(counted_G);
  }
  template <class Visit>
  void each_sum(Visit visit) {
    visit(probability_sums_GE), visit(aux_sums_G), visit(z_sums_G), visit(entropy_sums_G), visit(first_weight_sums_G);
  }

  int64_t num_experts;
  std::vector<int64_t> tokens_per_expert_GE;  // as chosen, before drops
  std::vector<int64_t> dropped_G;             // (token, slot) pairs without a place
  std::vector<int64_t> counted_G;             // tokens routed
  std::vector<double> probability_sums_GE;    // sum of p[t,e]
  std::vector<double> aux_sums_G;             // balance loss, summed over the granule's sequences for that scope
  std::vector<double> z_sums_G;               // sum of lse^2
  std::vector<double> entropy_sums_G;         // of the router's softmax, nats
  std::vector<double> first_weight_sums_G;    // of the first choice
  // At this rank's experts, places that nobody takes among them; never added up over ranks.
  int64_t rows = 0;
};

}  // namespace moe
