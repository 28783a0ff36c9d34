// Jitter: noise on the router's input, by which the choice of experts is explored (Switch Transformers, arXiv
// 2101.03961, section 2.2).
#pragma once

#include <cstdint>

#include "engine/core/dispatch.h"
#include "engine/core/rng.h"
#include "engine/core/tensor.h"

namespace moe {

// x[t,d] *= a factor from [1 - width, 1 + width) that depends on the key, the step and the element (first_row + t, d)
// of the step alone, so that backward finds the same.
struct Jitter {
  engine::Tensor x_TD;  // f32
  uint64_t key = 0, step = 0;
  int64_t first_row = 0;
  float width = 0;
};
void jitter(const Jitter& a);

ALWAYS_INLINE constexpr float jitter_factor(uint64_t key, uint64_t step, uint64_t element, float width) {
  const engine::Philox4 bits = engine::philox(key, element / 4, step);
  return 1.0f + width * (2.0f * engine::uniform_from_bits(bits[element % 4]) - 1.0f);
}

KERNEL(void jitter(const Jitter&))

}  // namespace moe
