#include "moe/aux_loss.h"

namespace moe {

double switch_loss(std::span<const int64_t> tokens_per_expert, std::span<const double> probability_sums,
                   int64_t num_tokens) {
  if (num_tokens == 0) return 0;
  int64_t choices = 0;
  for (int64_t n : tokens_per_expert) choices += n;
  if (choices == 0) return 0;
  double product = 0;
  for (size_t e = 0; e < tokens_per_expert.size(); ++e) {
    product += static_cast<double>(tokens_per_expert[e]) * probability_sums[e];
  }
  return static_cast<double>(tokens_per_expert.size()) * product /
         (static_cast<double>(choices) * static_cast<double>(num_tokens));
}

void sequence_losses(const SequenceLosses& a) {
  DISPATCH(a.device, sequence_losses, a);
}

void switch_loss_gradient(const SwitchLossGradient& a) {
  DISPATCH(a.device, switch_loss_gradient, a);
}

}  // namespace moe
