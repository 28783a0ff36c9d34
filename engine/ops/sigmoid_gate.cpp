#include "engine/ops/sigmoid_gate.h"

namespace engine::ops {

void sigmoid_gate_forward(const SigmoidGateForward& a) {
  ENSURE(a.y_TD.num_elements() == a.x_TD.num_elements() && a.logit_T.num_elements() == a.x_TD.rows(), "y has ",
         a.y_TD.num_elements(), " elements, x ", a.x_TD.num_elements(), ", logit ", a.logit_T.num_elements());
  DISPATCH(a.x_TD.device, sigmoid_gate_forward, a);
}

void sigmoid_gate_backward(const SigmoidGateBackward& a) {
  ENSURE(a.dx_TD.num_elements() == a.dy_TD.num_elements() && a.x_TD.num_elements() == a.dy_TD.num_elements() &&
             a.dlogit_T.num_elements() == a.x_TD.rows() && a.logit_T.num_elements() == a.x_TD.rows(),
         "dx has ", a.dx_TD.num_elements(), " elements, dy ", a.dy_TD.num_elements(), ", logit ",
         a.logit_T.num_elements());
  DISPATCH(a.x_TD.device, sigmoid_gate_backward, a);
}

}  // namespace engine::ops
