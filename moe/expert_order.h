// The order in which rows go to experts: sorted by expert, and within an expert by token.
#pragma once

#include "engine/core/dispatch.h"
#include "engine/core/tensor.h"

namespace moe {

using engine::ConstTensor;

// Row n of the sorted rows is slot slots_N[n] = t * K + k of token tokens_N[n] = t; slot (t, k) went to row
// rows_TK[t * K + k]; expert e has the rows offsets[e] to offsets[e + 1]. A choice of -1 goes nowhere: its slot has row
// -1, and tokens_N and slots_N are -1 from offsets[E] on. All are overwritten.
struct ExpertOrder {
  int32_t* tokens_N = nullptr;  // [T * K]
  int32_t* slots_N = nullptr;   // [T * K]
  int32_t* rows_TK = nullptr;   // [T * K]
  int64_t* offsets = nullptr;   // [E + 1]
  ConstTensor topk_idx_TK;      // i32
  int64_t num_experts = 0;
};
void expert_order(const ExpertOrder& a);

// Where each granule's rows begin within an expert's: starts[e * (G + 1) + g] is the first row of expert e whose token
// is at or behind granules[g], and starts[e * (G + 1) + G] the end of its rows. Overwritten.
struct GranuleStarts {
  int64_t* starts = nullptr;          // [E * (G + 1)]
  const int32_t* tokens_N = nullptr;  // of expert_order
  const int64_t* offsets = nullptr;   // [E + 1] of expert_order
  const int64_t* granules = nullptr;  // [G + 1] rows of the pass, in host memory on every device
  int64_t num_granules = 0;           // G
  int64_t num_experts = 0;            // E
  engine::Device device = engine::Device::cpu;
};
void granule_starts(const GranuleStarts& a);

KERNEL(void expert_order(const ExpertOrder&); void granule_starts(const GranuleStarts&))

}  // namespace moe
