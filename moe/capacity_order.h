// The order in which rows go to experts that have a capacity: every expert has the same number of places for each
// granule, taken or not, so the number of rows is known before the choices are.
#pragma once

#include "engine/core/dispatch.h"
#include "engine/core/gradient.h"
#include "engine/core/tensor.h"

namespace moe {

// Expert e's place i of granule g is row n = (position_E[e] * G + g) * places + i, and those who chose the expert take
// its places in the order of tokens: slots_N[n] = t * K + k and tokens_N[n] = t, both -1 where nobody does, and
// rows_TK[t * K + k] = n. A choice of -1 goes nowhere, nor does one beyond the last place or granule: its row is -1.
// All are overwritten.
struct CapacityOrder {
  int32_t* tokens_N = nullptr;          // [E * G * places]
  int32_t* slots_N = nullptr;           // [E * G * places]
  int32_t* rows_TK = nullptr;           // [T * K]
  engine::ConstTensor topk_idx_TK;      // i32
  const int32_t* position_E = nullptr;  // a permutation, where the tensors are
  engine::GranuleRows granules;
  int64_t places = 0, num_experts = 0;
};
void capacity_order(const CapacityOrder& a);

KERNEL(void capacity_order(const CapacityOrder&))

}  // namespace moe
