#include "moe/capacity.h"

#include <algorithm>
#include <cmath>

namespace moe {

int64_t expert_capacity(int64_t tokens, int64_t slots, int64_t experts, double factor) {
  const double places = static_cast<double>(tokens * slots) / static_cast<double>(experts) * factor;
  return std::min(tokens, static_cast<int64_t>(std::ceil(places)));
}

void Capacity::apply(engine::Tensor topk_idx_TK, engine::ConstTensor topk_weights_TK,
                     const engine::GranuleRows& granules, const int64_t* counted, int64_t experts, int64_t* dropped) {
  const int64_t K = topk_idx_TK.columns();
  int32_t* idx = topk_idx_TK.i32();
  const float* weights = topk_weights_TK.f32();
  for (int64_t g = 0; g < granules.count; ++g) {
    dropped[g] = 0;
    const int64_t capacity = expert_capacity(counted[g], K, experts, factor_);
    for (int64_t e = 0; e < experts; ++e) {
      choices_.clear();
      for (int64_t i = granules.offsets[g] * K; i < granules.offsets[g + 1] * K; ++i) {
        if (idx[i] == e) choices_.push_back(i);
      }
      const int64_t excess = static_cast<int64_t>(choices_.size()) - capacity;
      if (excess <= 0) continue;
      if (by_weight_) {
        std::sort(choices_.begin(), choices_.end(),
                  [&](int64_t a, int64_t b) { return weights[a] != weights[b] ? weights[a] > weights[b] : a < b; });
      }
      for (size_t i = static_cast<size_t>(capacity); i < choices_.size(); ++i) idx[choices_[i]] = -1;
      dropped[g] += excess;
    }
  }
}

}  // namespace moe
