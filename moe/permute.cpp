#include "moe/permute.h"

namespace moe {

void permute(const Permute& a) {
  ENSURE(a.y_ND.columns() == a.x_TD.columns(), "rows of ", a.x_TD.columns(), " elements do not fit rows of ",
         a.y_ND.columns());
  DISPATCH(a.x_TD.device, permute, a);
}

void unpermute(const Unpermute& a) {
  ENSURE(a.y_TD.columns() == a.x_ND.columns() && a.num_slots > 0, "rows of ", a.x_ND.columns(),
         " elements do not fit rows of ", a.y_TD.columns());
  DISPATCH(a.x_ND.device, unpermute, a);
}

void unpermute_weights_backward(const UnpermuteWeightsBackward& a) {
  ENSURE(a.dy_TD.columns() == a.x_ND.columns() && a.dweights_TK.rows() == a.dy_TD.rows(), "dy is ", a.dy_TD.rows(),
         " x ", a.dy_TD.columns(), " but x has ", a.x_ND.columns(), " columns");
  DISPATCH(a.dy_TD.device, unpermute_weights_backward, a);
}

}  // namespace moe
