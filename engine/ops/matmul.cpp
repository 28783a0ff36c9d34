#include "engine/ops/matmul.h"

namespace engine::ops {

int64_t packed_weight_elements(int64_t N, int64_t D, Device device) {
  if (device == Device::cuda) return N * D;
  DISPATCH_CPU(packed_weight_elements, N, D);
}

void pack_weight(const PackWeight& a) {
  const int64_t needed = packed_weight_elements(a.weight_ND.rows(), a.weight_ND.columns(), a.weight_ND.device);
  ENSURE(a.packed.num_elements() == needed, "packed has ", a.packed.num_elements(), " elements but needs ", needed);
  ENSURE(a.weight_ND.is_contiguous(), "weights are contiguous");
  DISPATCH(a.weight_ND.device, pack_weight, a);
}

void matmul_forward(const MatmulForward& a) {
  const int64_t T = a.x_TD.rows(), N = a.y_TN.columns();
  ENSURE(a.y_TN.rows() == T, "y has ", a.y_TN.rows(), " rows but x has ", T);
  ENSURE(!a.bias_N || a.bias_N.num_elements() == N, "bias has ", a.bias_N.num_elements(), " elements but y ", N,
         " columns");
  ENSURE(a.packed_weight.num_elements() == packed_weight_elements(N, a.x_TD.columns(), a.x_TD.device),
         "the packed weight is not one of ", N, " x ", a.x_TD.columns());
  DISPATCH(a.x_TD.device, matmul_forward, a);
}

void matmul_backward_input(const MatmulBackwardInput& a) {
  ENSURE(a.dx_TD.rows() == a.dy_TN.rows(), "dx has ", a.dx_TD.rows(), " rows but dy has ", a.dy_TN.rows());
  ENSURE(a.weight_ND.rows() == a.dy_TN.columns() && a.weight_ND.columns() == a.dx_TD.columns(), "the weight is ",
         a.weight_ND.rows(), " x ", a.weight_ND.columns(), " but should be ", a.dy_TN.columns(), " x ",
         a.dx_TD.columns());
  DISPATCH(a.dx_TD.device, matmul_backward_input, a);
}

void matmul_backward_weight(const MatmulBackwardWeight& a) {
  const Tensor& chain = a.dweight_ND.chain;
  ENSURE(a.x_TD.rows() == a.dy_TN.rows(), "x has ", a.x_TD.rows(), " rows but dy has ", a.dy_TN.rows());
  ENSURE(chain.rows() == a.dy_TN.columns() && chain.columns() == a.x_TD.columns(), "dweight is ", chain.rows(), " x ",
         chain.columns(), " but should be ", a.dy_TN.columns(), " x ", a.x_TD.columns());
  DISPATCH(a.x_TD.device, matmul_backward_weight, a);
}

void bias_backward(const BiasBackward& a) {
  ENSURE(a.dbias_N.chain.num_elements() == a.dy_TN.columns(), "dbias has ", a.dbias_N.chain.num_elements(),
         " elements but dy ", a.dy_TN.columns(), " columns");
  DISPATCH(a.dy_TN.device, bias_backward, a);
}

}  // namespace engine::ops
