#include "engine/ops/grouped_matmul.h"

#include "engine/ops/matmul.h"

namespace engine::ops {

void grouped_matmul_forward(const GroupedMatmulForward& a) {
  ENSURE(a.y_RN.rows() == a.x_RD.rows() && a.offsets_e[a.num_experts] <= a.x_RD.rows(), "y has ", a.y_RN.rows(),
         " rows, x ", a.x_RD.rows(), ", the experts ", a.offsets_e[a.num_experts]);
  const int64_t N = a.y_RN.columns(), D = a.x_RD.columns();
  const int64_t elements = packed_weight_elements(N, D, a.x_RD.device);
  for (int64_t e = 0; e < a.num_experts; ++e) {
    ENSURE(a.packed_weights_e[e].num_elements() == elements, "the packed weight of expert ", e, " is not one of ", N,
           " x ", D);
  }
  DISPATCH(a.x_RD.device, grouped_matmul_forward, a);
}

void grouped_matmul_backward_input(const GroupedMatmulBackwardInput& a) {
  ENSURE(a.dx_RD.rows() == a.dy_RN.rows() && a.offsets_e[a.num_experts] <= a.dy_RN.rows(), "dx has ", a.dx_RD.rows(),
         " rows, dy ", a.dy_RN.rows(), ", the experts ", a.offsets_e[a.num_experts]);
  for (int64_t e = 0; e < a.num_experts; ++e) {
    const ConstTensor& weight_ND = a.weights_eND[e];
    ENSURE(weight_ND.rows() == a.dy_RN.columns() && weight_ND.columns() == a.dx_RD.columns(), "the weight of expert ",
           e, " is ", weight_ND.rows(), " x ", weight_ND.columns(), " but should be ", a.dy_RN.columns(), " x ",
           a.dx_RD.columns());
  }
  DISPATCH(a.dy_RN.device, grouped_matmul_backward_input, a);
}

void grouped_matmul_backward_weight(const GroupedMatmulBackwardWeight& a) {
  ENSURE(a.x_RD.rows() == a.dy_RN.rows(), "x has ", a.x_RD.rows(), " rows but dy has ", a.dy_RN.rows());
  DISPATCH(a.x_RD.device, grouped_matmul_backward_weight, a);
}

}  // namespace engine::ops
