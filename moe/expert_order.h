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

KERNEL(void expert_order(const ExpertOrder&))

}  // namespace moe
