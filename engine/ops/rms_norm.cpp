#include "engine/ops/rms_norm.h"

namespace engine::ops {

void rms_norm_forward(const RmsNormForward& a) {
  ENSURE(a.y_TD.rows() == a.x_TD.rows() && a.y_TD.columns() == a.x_TD.columns(), "y is ", a.y_TD.rows(), " x ",
         a.y_TD.columns(), " but x is ", a.x_TD.rows(), " x ", a.x_TD.columns());
  ENSURE(a.weight_D.num_elements() == a.x_TD.columns(), "weight has ", a.weight_D.num_elements(),
         " elements for rows of ", a.x_TD.columns());
  ENSURE(a.rstd_T.num_elements() == a.x_TD.rows(), "rstd has ", a.rstd_T.num_elements(), " elements for ",
         a.x_TD.rows(), " rows");
  DISPATCH(a.x_TD.device, rms_norm_forward, a);
}

void rms_norm_backward(const RmsNormBackward& a) {
  ENSURE(a.dx_TD.rows() == a.x_TD.rows() && a.dx_TD.columns() == a.x_TD.columns(), "dx is ", a.dx_TD.rows(), " x ",
         a.dx_TD.columns(), " but x is ", a.x_TD.rows(), " x ", a.x_TD.columns());
  ENSURE(a.dy_TD.rows() == a.x_TD.rows() && a.dy_TD.columns() == a.x_TD.columns(), "dy is ", a.dy_TD.rows(), " x ",
         a.dy_TD.columns(), " but x is ", a.x_TD.rows(), " x ", a.x_TD.columns());
  ENSURE(a.dweight_D.chain.num_elements() == a.x_TD.columns(), "dweight has ", a.dweight_D.chain.num_elements(),
         " elements for rows of ", a.x_TD.columns());
  DISPATCH(a.x_TD.device, rms_norm_backward, a);
}

}  // namespace engine::ops
