// Products of activations with a weight: forward (NT), input gradient (NN), weight gradient (TN).
//
// Every element of a result is one chain of fused multiply-adds in the order of the summed index, loaded from and
// stored to memory between cache blocks, never started anew and added afterwards. So a row's bits depend neither
// on how many rows there are, nor on threads, tiles or passes.
#pragma once

#include "engine/core/dispatch.h"
#include "engine/core/gradient.h"
#include "engine/core/tensor.h"

namespace engine::ops {

// Elements that pack_weight() writes for a weight of N rows and D columns.
int64_t packed_weight_elements(int64_t N, int64_t D, Device device = Device::cpu);

// Lays out weight_ND for the forward product; once after each change of the weight. On the CPU in panels of the
// result's columns, on a GPU row by row, converted to the type of the activations.
struct PackWeight {
  Tensor packed;  // [packed_weight_elements(N, D, device)]
  ConstTensor weight_ND;
};
void pack_weight(const PackWeight& a);

// y[t,n] = bias[n] + sum_d x[t,d] * weight[n,d]; y is overwritten, bias may be absent. Rows may be strided.
struct MatmulForward {
  Tensor y_TN;
  ConstTensor x_TD, packed_weight, bias_N{};
};
void matmul_forward(const MatmulForward& a);

// dx[t,d] = sum_n dy[t,n] * weight[n,d]; with `accumulate` the chain starts from dx instead of zero. The weight is
// stored like dy.
struct MatmulBackwardInput {
  Tensor dx_TD;
  ConstTensor dy_TN, weight_ND;
  bool accumulate = false;
};
void matmul_backward_input(const MatmulBackwardInput& a);

// dweight[n,d] += sum_t dy[t,n] * x[t,d], a chain over the tokens of each granule (gradient.h).
struct MatmulBackwardWeight {
  WeightGradient dweight_ND;
  ConstTensor x_TD, dy_TN;
  GranuleRows granules;
};
void matmul_backward_weight(const MatmulBackwardWeight& a);

// dbias[n] += sum_t dy[t,n], a chain over the tokens of each granule.
struct BiasBackward {
  WeightGradient dbias_N;
  ConstTensor dy_TN;
  GranuleRows granules;
};
void bias_backward(const BiasBackward& a);

KERNEL(int64_t packed_weight_elements(int64_t N, int64_t D); void pack_weight(const PackWeight&);
       void matmul_forward(const MatmulForward&); void matmul_backward_input(const MatmulBackwardInput&);
       void matmul_backward_weight(const MatmulBackwardWeight&); void bias_backward(const BiasBackward&))

}  // namespace engine::ops
