#include "moe/aux_loss.h"

#include <algorithm>

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

void switch_loss_gradient(std::span<const int64_t> tokens_per_expert, int64_t num_tokens, double factor,
                          std::span<float> dprobabilities) {
  int64_t choices = 0;
  for (int64_t n : tokens_per_expert) choices += n;
  const double scale = choices == 0 || num_tokens == 0
                           ? 0.0
                           : factor * static_cast<double>(tokens_per_expert.size()) /
                                 (static_cast<double>(choices) * static_cast<double>(num_tokens));
  for (size_t e = 0; e < tokens_per_expert.size(); ++e) {
    dprobabilities[e] = static_cast<float>(scale * static_cast<double>(tokens_per_expert[e]));
  }
}

void AuxLossPool::begin_step(int64_t granules, int64_t experts) {
  experts_ = experts;
  tokens_per_expert_GE_.assign(static_cast<size_t>(granules * experts), 0);
  probability_sums_GE_.assign(static_cast<size_t>(granules * experts), 0.0);
  rows_G_.assign(static_cast<size_t>(granules), 0);
}

void AuxLossPool::add(int64_t granule, std::span<const int64_t> tokens_per_expert,
                      std::span<const double> probability_sums, int64_t num_tokens) {
  const size_t begin = static_cast<size_t>(granule * experts_);
  for (size_t e = 0; e < tokens_per_expert.size(); ++e) {
    tokens_per_expert_GE_[begin + e] += tokens_per_expert[e];
    probability_sums_GE_[begin + e] += probability_sums[e];
  }
  rows_G_[static_cast<size_t>(granule)] += num_tokens;
}

double AuxLossPool::loss(int64_t granule) const {
  const size_t begin = static_cast<size_t>(granule * experts_);
  const double rows = static_cast<double>(rows_G_[static_cast<size_t>(granule)]);
  double product = 0;
  for (size_t e = 0; e < static_cast<size_t>(experts_); ++e) {
    product += static_cast<double>(tokens_per_expert_GE_[begin + e]) * probability_sums_GE_[begin + e];
  }
  return rows == 0 ? 0 : static_cast<double>(experts_) * product / (rows * rows);
}

void AuxLossPool::gradient(int64_t granule, double factor, std::span<float> dprobabilities) const {
  const size_t begin = static_cast<size_t>(granule * experts_);
  const double rows = static_cast<double>(rows_G_[static_cast<size_t>(granule)]);
  for (size_t e = 0; e < static_cast<size_t>(experts_); ++e) {
    dprobabilities[e] = rows == 0
                            ? 0.0f
                            : static_cast<float>(factor * static_cast<double>(experts_) *
                                                 static_cast<double>(tokens_per_expert_GE_[begin + e]) / (rows * rows));
  }
}

}  // namespace moe
