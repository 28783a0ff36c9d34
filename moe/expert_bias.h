// Balance without a loss: a bias on the choice of experts (Wang et al., arXiv 2408.15664).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/core/tensor.h"

namespace moe {

class ExpertBias {
 public:
  ExpertBias(int64_t num_experts, double update_rate) : rate_(update_rate), bias_E_(static_cast<size_t>(num_experts)) {}

  // b_e += rate * sign(mean(n) - n_e), n the tokens per expert of the whole step. The comparison is in integers.
  void update(std::span<const int64_t> tokens_per_expert);

  engine::ConstTensor view() const {
    return {bias_E_.data(), engine::DType::f32, {static_cast<int64_t>(bias_E_.size())}};
  }
  std::vector<float>& values() { return bias_E_; }

 private:
  double rate_;
  std::vector<float> bias_E_;
};

}  // namespace moe
