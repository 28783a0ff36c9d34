#include "moe/expert_order.h"

namespace moe::SIMD_TARGET {

// A counting sort; offsets[e + 1] is first the count and then the next row of expert e.
void expert_order(const ExpertOrder& a) {
  const int64_t slots = a.topk_idx_TK.num_elements(), K = a.topk_idx_TK.columns(), E = a.num_experts;
  const int32_t* idx = a.topk_idx_TK.i32();
  for (int64_t e = 0; e <= E; ++e) a.offsets[e] = 0;
  for (int64_t i = 0; i < slots; ++i) {
    if (idx[i] >= 0 && idx[i] + 1 < E) ++a.offsets[idx[i] + 2];
  }
  for (int64_t e = 1; e < E; ++e) a.offsets[e + 1] += a.offsets[e];
  for (int64_t i = 0; i < slots; ++i) a.tokens_N[i] = a.slots_N[i] = -1;
  for (int64_t i = 0; i < slots; ++i) {
    a.rows_TK[i] = -1;
    if (idx[i] < 0) continue;
    const int64_t row = a.offsets[idx[i] + 1]++;
    a.rows_TK[i] = static_cast<int32_t>(row);
    a.tokens_N[row] = static_cast<int32_t>(i / K);
    a.slots_N[row] = static_cast<int32_t>(i);
  }
}

void granule_starts(const GranuleStarts& a) {
  const int64_t G = a.num_granules;
  for (int64_t e = 0; e < a.num_experts; ++e) {
    int64_t row = a.offsets[e];
    for (int64_t g = 0; g < G; ++g) {
      while (row < a.offsets[e + 1] && a.tokens_N[row] < a.granules[g]) ++row;
      a.starts[e * (G + 1) + g] = row;
    }
    a.starts[e * (G + 1) + G] = a.offsets[e + 1];
  }
}

}  // namespace moe::SIMD_TARGET
