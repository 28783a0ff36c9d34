#include "moe/capacity_order.h"

namespace moe::SIMD_TARGET {

void capacity_order(const CapacityOrder& a) {
  const int64_t K = a.topk_idx_TK.columns(), G = a.granules.count, N = a.num_experts * G * a.places;
  const int32_t* idx = a.topk_idx_TK.i32();
  for (int64_t n = 0; n < N; ++n) a.tokens_N[n] = a.slots_N[n] = -1;
  for (int64_t slot = 0; slot < a.topk_idx_TK.num_elements(); ++slot) a.rows_TK[slot] = -1;
  for (int64_t e = 0; e < a.num_experts; ++e) {
    for (int64_t g = 0; g < G; ++g) {
      int64_t n = (a.position_E[e] * G + g) * a.places;
      const int64_t end = n + a.places;
      for (int64_t slot = a.granules.offsets[g] * K; slot < a.granules.offsets[g + 1] * K && n < end; ++slot) {
        if (idx[slot] != e) continue;
        a.tokens_N[n] = static_cast<int32_t>(slot / K);
        a.slots_N[n] = static_cast<int32_t>(slot);
        a.rows_TK[slot] = static_cast<int32_t>(n++);
      }
    }
  }
}

}  // namespace moe::SIMD_TARGET
