#include "moe/capacity.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

namespace moe {
namespace {

// Of what is not negative the order of bits is that of values, and what is not a number has a place in it, too.
uint32_t rank_of(float weight) {
  return std::bit_cast<uint32_t>(weight) & 0x7fffffffu;
}

}  // namespace

int64_t expert_capacity(int64_t tokens, int64_t slots, int64_t experts, double factor) {
  const double places = static_cast<double>(tokens * slots) / static_cast<double>(experts) * factor;
  return std::min(tokens, static_cast<int64_t>(std::ceil(places)));
}

int64_t drop_of_granule(const DropOverCapacity& a, int64_t g) {
  static thread_local std::vector<int64_t> choices;  // token * K + slot of one expert's
  const int64_t K = a.topk_idx_TK.columns();
  int32_t* idx = a.topk_idx_TK.i32();
  const float* weights = a.topk_weights_TK.f32();
  int64_t dropped = 0;
  choices.reserve(static_cast<size_t>(a.granules.offsets[g + 1] - a.granules.offsets[g]));
  for (int64_t e = 0; e < a.num_experts; ++e) {
    choices.clear();
    for (int64_t i = a.granules.offsets[g] * K; i < a.granules.offsets[g + 1] * K; ++i) {
      if (idx[i] == e) choices.push_back(i);
    }
    const int64_t excess = static_cast<int64_t>(choices.size()) - a.capacities[g];
    if (excess <= 0) continue;
    if (a.by_weight) {
      std::sort(choices.begin(), choices.end(), [&](int64_t i, int64_t j) {
        const uint32_t one = rank_of(weights[i]), other = rank_of(weights[j]);
        return one != other ? one > other : i < j;
      });
    }
    for (size_t i = static_cast<size_t>(a.capacities[g]); i < choices.size(); ++i) idx[choices[i]] = -1;
    dropped += excess;
  }
  return dropped;
}

void drop_over_capacity(const DropOverCapacity& a) {
  ENSURE(a.topk_idx_TK.is_contiguous() && a.topk_weights_TK.is_contiguous() &&
             a.topk_idx_TK.num_elements() == a.topk_weights_TK.num_elements() &&
             a.granules.count * a.num_experts < 0x7fffffff,
         "choices and their weights must be contiguous and alike");
  ENSURE(a.granules.offsets[a.granules.count] <= a.topk_idx_TK.rows(), "granules end at row ",
         a.granules.offsets[a.granules.count], " of ", a.topk_idx_TK.rows());
  DISPATCH(a.topk_idx_TK.device, drop_over_capacity, a);
}

}  // namespace moe
