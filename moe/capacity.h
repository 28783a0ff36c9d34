// Dropping by capacity, per granule: an expert keeps at most so many of a granule's tokens.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/core/gradient.h"
#include "engine/core/tensor.h"

namespace moe {

// ceil(tokens * K / E * factor) (Megatron-LM); at most `tokens`.
int64_t expert_capacity(int64_t tokens, int64_t slots, int64_t experts, double factor);

class Capacity {
 public:
  // Policy "probs" keeps the largest weights (equal ones: the earlier token), "position" the earliest tokens.
  Capacity(double factor, const std::string& policy) : factor_(factor), by_weight_(policy == "probs") {}

  // Takes the memory that passes of at most so many rows need.
  void reserve(int64_t max_rows) { choices_.reserve(static_cast<size_t>(max_rows)); }

  // Sets topk_idx to -1 where a choice finds no place; weights of the others stay as they are. counted[g] tokens of
  // granule g take part. dropped[g] is set to the number of choices dropped.
  void apply(engine::Tensor topk_idx_TK, engine::ConstTensor topk_weights_TK, const engine::GranuleRows& granules,
             const int64_t* counted, int64_t experts, int64_t* dropped);

 private:
  double factor_;
  bool by_weight_;
  std::vector<int64_t> choices_;  // (token * K + slot) of one expert in one granule
};

}  // namespace moe
