// The products of a step's experts, with operands to run each of them alone, in whatever way a GPU knows.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "engine/ops/grouped_way.h"
#include "engine/train/step_op_list.h"

namespace engine::train {

// Names of the projections.
inline constexpr const char *kGateAndUp = "experts gate_proj and up_proj", *kDown = "experts down_proj";

struct GroupedProduct {
  using Run = std::function<void(ops::GroupedWay)>;
  std::string name;  // "experts down_proj forward"
  bool forward;
  DType operands, results;
  double flops, bytes;  // of one call, as in StepOp
  // The function does the product once, with what was made here.
  std::function<Run(Operands&)> prepare;
};

// Forward product, input gradient and weight gradient of one projection [N, D] of all experts of a rank.
std::vector<GroupedProduct> grouped_products(const StepShapes& shapes, const std::string& projection, int64_t N,
                                             int64_t D);

}  // namespace engine::train
