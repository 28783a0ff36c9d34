#include "moe/expert_bias.h"

namespace moe {

void ExpertBias::update(std::span<const int64_t> tokens_per_expert) {
  int64_t total = 0;
  for (int64_t n : tokens_per_expert) total += n;
  const int64_t E = static_cast<int64_t>(bias_E_.size());
  for (size_t e = 0; e < bias_E_.size(); ++e) {
    const int64_t share = tokens_per_expert[e] * E;
    const double direction = share < total ? 1.0 : share > total ? -1.0 : 0.0;
    bias_E_[e] = static_cast<float>(static_cast<double>(bias_E_[e]) + rate_ * direction);
  }
}

}  // namespace moe
