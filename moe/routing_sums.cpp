#include "moe/routing_sums.h"

namespace moe {

void routing_sums(const RoutingSums& a) {
  ENSURE(a.count == 0 || a.offsets[a.count] <= a.scores_TE.rows(), "ranges end at row ", a.offsets[a.count], " of ",
         a.scores_TE.rows());
  DISPATCH(a.scores_TE.device, routing_sums, a);
}

}  // namespace moe
