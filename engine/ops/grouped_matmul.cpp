#include "engine/ops/grouped_matmul.h"

#include "engine/ops/matmul.h"

namespace engine::ops {

namespace {

void check_packed(const ConstTensor* packed_e, int64_t num_experts, int64_t N, int64_t D, PackFor product,
                  Device device) {
  const int64_t elements = packed_weight_elements(N, D, product, device);
  for (int64_t e = 0; e < num_experts; ++e) {
    ENSURE(packed_e[e].num_elements() == elements, "the packed weight of expert ", e, " is not one of ", N, " x ", D);
  }
}

}  // namespace

void grouped_matmul_forward(const GroupedMatmulForward& a) {
  ENSURE(a.y_RN.rows() == a.x_RD.rows() && a.offsets_e[a.num_experts] <= a.x_RD.rows(), "y has ", a.y_RN.rows(),
         " rows, x ", a.x_RD.rows(), ", the experts ", a.offsets_e[a.num_experts]);
  check_packed(a.packed_weights_e, a.num_experts, a.y_RN.columns(), a.x_RD.columns(), PackFor::forward, a.x_RD.device);
  DISPATCH(a.x_RD.device, grouped_matmul_forward, a);
}

void grouped_matmul_backward_input(const GroupedMatmulBackwardInput& a) {
  ENSURE(a.dx_RD.rows() == a.dy_RN.rows() && a.offsets_e[a.num_experts] <= a.dy_RN.rows(), "dx has ", a.dx_RD.rows(),
         " rows, dy ", a.dy_RN.rows(), ", the experts ", a.offsets_e[a.num_experts]);
  check_packed(a.packed_weights_e, a.num_experts, a.dy_RN.columns(), a.dx_RD.columns(), PackFor::input_gradient,
               a.dy_RN.device);
  DISPATCH(a.dy_RN.device, grouped_matmul_backward_input, a);
}

void grouped_matmul_backward_weight(const GroupedMatmulBackwardWeight& a) {
  ENSURE(a.x_RD.rows() == a.dy_RN.rows(), "x has ", a.x_RD.rows(), " rows but dy has ", a.dy_RN.rows());
  DISPATCH(a.x_RD.device, grouped_matmul_backward_weight, a);
}

}  // namespace engine::ops
