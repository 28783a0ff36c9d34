#include "moe/expert_order.h"

namespace moe {

void expert_order(const ExpertOrder& a) {
  ENSURE(a.topk_idx_TK.is_contiguous() && a.topk_idx_TK.num_elements() <= 0x7fffffff, "the choices have ",
         a.topk_idx_TK.num_elements(), " elements but must be contiguous and fit 32 bits");
  DISPATCH(a.topk_idx_TK.device, expert_order, a);
}

void granule_starts(const GranuleStarts& a) {
  DISPATCH(a.device, granule_starts, a);
}

}  // namespace moe
