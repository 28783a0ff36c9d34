// The products of matmul.h for many weights at once: rows are sorted by expert, each expert has its weight.
//
// Work is cut into (expert, row tile) tasks that threads take as they come, so uneven loads do not wait for the
// largest expert. Bits are those of matmul.h applied to each expert's rows. Offsets and lists of weights are in host
// memory on every device. On a GPU `way` says how the products are done (grouped_way.h): all but batched give the bits
// of matmul.h there, too.
#pragma once

#include "engine/core/dispatch.h"
#include "engine/core/gradient.h"
#include "engine/core/tensor.h"
#include "engine/ops/grouped_way.h"

namespace engine::ops {

// Expert e's rows are offsets_e[e] to offsets_e[e + 1] of x and y; an expert may have none.
// y[r,n] = sum_d x[r,d] * weight_e[n,d]; y is overwritten.
struct GroupedMatmulForward {
  Tensor y_RN;
  ConstTensor x_RD;
  const ConstTensor* packed_weights_e = nullptr;  // [e], each by pack_weight()
  const int64_t* offsets_e = nullptr;             // [e + 1]
  int64_t num_experts = 0;
  GroupedWay way = kGroupedWay;
};
void grouped_matmul_forward(const GroupedMatmulForward& a);

// dx[r,d] = sum_n dy[r,n] * weight_e[n,d]; with `accumulate` the chain starts from dx.
struct GroupedMatmulBackwardInput {
  Tensor dx_RD;
  ConstTensor dy_RN;
  const ConstTensor* weights_eND = nullptr;  // [e], stored like dy
  const int64_t* offsets_e = nullptr;        // [e + 1]
  int64_t num_experts = 0;
  bool accumulate = false;
  GroupedWay way = kGroupedWay;
};
void grouped_matmul_backward_input(const GroupedMatmulBackwardInput& a);

// dweight_e[n,d] += sum_r dy[r,n] * x[r,d], a chain over the expert's rows of each granule. Rows of an expert are
// sorted by granule, then token: granule g of the pass holds rows granule_offsets[e * (G + 1) + g] to
// granule_offsets[e * (G + 1) + g + 1], G = num_granules. `ends`: the last granule is complete after this pass;
// an expert without rows in a granule adds nothing.
struct GroupedMatmulBackwardWeight {
  const WeightGradient* dweights_eND = nullptr;  // [e]
  ConstTensor x_RD, dy_RN;
  const int64_t* granule_offsets = nullptr;  // [e * (num_granules + 1)]
  int64_t num_experts = 0, num_granules = 0;
  bool ends = true, begins = false;  // as in GranuleRows
  GroupedWay way = kGroupedWay;
};
void grouped_matmul_backward_weight(const GroupedMatmulBackwardWeight& a);

KERNEL(void grouped_matmul_forward(const GroupedMatmulForward&);
       void grouped_matmul_backward_input(const GroupedMatmulBackwardInput&);
       void grouped_matmul_backward_weight(const GroupedMatmulBackwardWeight&))

}  // namespace engine::ops
