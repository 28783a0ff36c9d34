// Dropping by capacity, per granule: an expert keeps at most so many of a granule's tokens.
#pragma once

#include <cstdint>

#include "engine/core/dispatch.h"
#include "engine/core/gradient.h"
#include "engine/core/tensor.h"

namespace moe {

// ceil(tokens * K / E * factor) (Megatron-LM); at most `tokens`.
int64_t expert_capacity(int64_t tokens, int64_t slots, int64_t experts, double factor);

// Sets topk_idx to -1 where a choice finds no place among the capacities[g] of its expert in granule g; weights, which
// are not negative, stay as they are.
struct DropOverCapacity {
  engine::Tensor topk_idx_TK;           // i32
  engine::ConstTensor topk_weights_TK;  // f32
  int64_t* dropped = nullptr;           // [G] choices dropped, overwritten; where the tensors are
  engine::GranuleRows granules;
  const int64_t* capacities = nullptr;  // [G] in host memory on every device
  int64_t num_experts = 0;
  bool by_weight = true;  // the largest weights keep their place (equal ones: the earlier token); else the earliest
};
void drop_over_capacity(const DropOverCapacity& a);

// Of granule g on the CPU: the number dropped. For no instruction set in particular.
int64_t drop_of_granule(const DropOverCapacity& a, int64_t g);

KERNEL(void drop_over_capacity(const DropOverCapacity&))

}  // namespace moe
