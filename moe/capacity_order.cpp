#include "moe/capacity_order.h"

namespace moe {

void capacity_order(const CapacityOrder& a) {
  ENSURE(a.topk_idx_TK.is_contiguous() && a.topk_idx_TK.num_elements() <= 0x7fffffff &&
             a.num_experts * a.granules.count * a.places <= 0x7fffffff,
         "the choices of ", a.topk_idx_TK.rows(), " tokens and ", a.places, " places of each of ", a.num_experts,
         " experts in ", a.granules.count, " granules must be contiguous and fit 32 bits");
  DISPATCH(a.topk_idx_TK.device, capacity_order, a);
}

}  // namespace moe
