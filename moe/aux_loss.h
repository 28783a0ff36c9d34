// Load-balancing losses: values and gradients with respect to the router's probabilities.
//
// For a range of T routed tokens (a granule, or a sequence), n_e choices of expert e (all K slots, before drops),
// f_e = n_e / (K T), P_e = mean_t p[t,e]:
//   switch:  L = E sum_e f_e P_e                          1 when balanced   (Megatron-LM, per layer)
//   hf:      the same over the rows of all layers together, times K         (transformers load_balancing_loss_func)
//   global:  f_e from the counts of the whole previous step, P_e of the granule (arXiv 2501.11873); in the first
//            step f_e of the granule
//   z-loss:  mean_t (log sum_e exp z[t,e])^2              (ST-MoE)
// Training adds coefficient * L, mean over granules (sequences), summed over layers.
#pragma once

#include <cstdint>
#include <span>

#include "engine/core/dispatch.h"
#include "engine/core/tensor.h"
#include "moe/routing_sums.h"

namespace moe {

// L = E sum_e f_e P_e, f_e = counts_e / sum of counts, P_e = probability_sums_e / num_tokens; 0 without tokens.
double switch_loss(std::span<const int64_t> tokens_per_expert, std::span<const double> probability_sums,
                   int64_t num_tokens);

// The same of one range's sums.
ALWAYS_INLINE constexpr double switch_loss(const double* sums, int64_t E) {
  const double *probability_sums = sums, *counts = sums + E, num_tokens = sums[2 * E + kCounted];
  double choices = 0, product = 0;
  for (int64_t e = 0; e < E; ++e) choices += counts[e];
  if (choices == 0 || num_tokens == 0) return 0;
  for (int64_t e = 0; e < E; ++e) product += counts[e] * probability_sums[e];
  return static_cast<double>(E) * product / (choices * num_tokens);
}

// Adds the L of each sequence of a pass, in order, to its granule's kAuxLoss. Granules have as many sequences each.
struct SequenceLosses {
  double* granule_sums = nullptr;         // [G, routing_sums_width(E)]
  const double* sequence_sums = nullptr;  // [G * sequences_per_granule, routing_sums_width(E)]
  int64_t num_granules = 0, sequences_per_granule = 0, num_experts = 0;
  engine::Device device = engine::Device::cpu;
};
void sequence_losses(const SequenceLosses& a);

// dprobabilities[i,e] = factor * E * f_e / T: d(L)/d(p[t,e]) of every token of range i, times `factor`; 0 where nothing
// was routed. Overwritten.
struct SwitchLossGradient {
  float* dprobabilities_NE = nullptr;
  const double* sums = nullptr;      // [N, routing_sums_width(E)]: T, and n_e
  const double* counts_E = nullptr;  // n_e of all ranges; null: each has its own
  double factor = 0;
  int64_t num_ranges = 0, num_experts = 0;
  engine::Device device = engine::Device::cpu;
};
void switch_loss_gradient(const SwitchLossGradient& a);

KERNEL(void sequence_losses(const SequenceLosses&); void switch_loss_gradient(const SwitchLossGradient&))

}  // namespace moe
