// Weights laid out for the forward product on the CPU.
#pragma once

#include "engine/ops/matmul.h"
#include "tests/support/compare.h"

namespace test {

inline std::vector<float> packed(const std::vector<float>& weight, int64_t N, int64_t D) {
  auto out = poisoned(engine::ops::packed_weight_elements(N, D));
  engine::ops::pack_weight(
      {.packed = tensor(out, {static_cast<int64_t>(out.size())}), .weight_ND = tensor(weight, {N, D})});
  return out;
}

// All of a vector.
inline engine::ConstTensor flat(const std::vector<float>& values) {
  return tensor(values, {static_cast<int64_t>(values.size())});
}

}  // namespace test
