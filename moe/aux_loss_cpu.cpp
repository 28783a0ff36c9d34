#include "moe/aux_loss.h"

namespace moe::SIMD_TARGET {

void sequence_losses(const SequenceLosses& a) {
  const int64_t width = routing_sums_width(a.num_experts);
  for (int64_t g = 0; g < a.num_granules; ++g) {
    double& loss = a.granule_sums[g * width + 2 * a.num_experts + kAuxLoss];
    for (int64_t s = 0; s < a.sequences_per_granule; ++s) {
      loss += switch_loss(a.sequence_sums + (g * a.sequences_per_granule + s) * width, a.num_experts);
    }
  }
}

void switch_loss_gradient(const SwitchLossGradient& a) {
  const int64_t E = a.num_experts, width = routing_sums_width(E);
  for (int64_t i = 0; i < a.num_ranges; ++i) {
    const double* sums = a.sums + i * width;
    const double *counts = a.counts_E != nullptr ? a.counts_E : sums + E, tokens = sums[2 * E + kCounted];
    double choices = 0;
    for (int64_t e = 0; e < E; ++e) choices += counts[e];
    const double scale = choices == 0 || tokens == 0 ? 0.0 : a.factor * static_cast<double>(E) / (choices * tokens);
    for (int64_t e = 0; e < E; ++e) a.dprobabilities_NE[i * E + e] = static_cast<float>(scale * counts[e]);
  }
}

}  // namespace moe::SIMD_TARGET
