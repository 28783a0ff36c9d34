// What the routing of a pass adds up to, by range of rows (granules or sequences).
#pragma once

#include "engine/core/dispatch.h"
#include "engine/core/tensor.h"

namespace moe {

using engine::ConstTensor;

// Places in the sums of one range: E sums of p[t,e], E numbers of choices, then the five below. Numbers of rows are
// exact in a double.
inline constexpr int64_t kCounted = 0, kSquaredLse = 1, kEntropy = 2, kFirstWeight = 3;
inline constexpr int64_t kAuxLoss = 4;  // of the granule's sequences; not of routing_sums(): see aux_loss.h
inline constexpr int64_t routing_sums_width(int64_t E) {
  return 2 * E + 5;
}

// Adds the counted rows of each range to its sums: p[t,e], choices of each expert (topk_idx), 1, lse[t]^2, entropy[t],
// and the weight of the first choice. Rows whose first choice is -1 do not count. On the CPU every sum is a chain in
// the order of rows that goes on from what `sums` holds. A GPU adds up blocks of kRoutingBlock rows, and then the
// blocks, in order.
struct RoutingSums {
  double* sums = nullptr;  // [count, routing_sums_width(E)], where the tensors are
  ConstTensor scores_TE, topk_idx_TK, topk_weights_TK, lse_T, entropy_T;
  const int64_t* offsets = nullptr;  // [count + 1] range i is rows offsets[i] to offsets[i + 1]; in host memory
  int64_t count = 0;
  bool divide = false;  // p[t] is scores[t] divided by its sum (sigmoid), else scores[t]
};
void routing_sums(const RoutingSums& a);

inline constexpr int64_t kRoutingBlock = 256;  // rows

KERNEL(void routing_sums(const RoutingSums&))

}  // namespace moe
