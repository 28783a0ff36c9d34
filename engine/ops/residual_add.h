// The residual stream adds.
#pragma once

#include "engine/core/dispatch.h"
#include "engine/core/tensor.h"

namespace engine::ops {

// x += y, elementwise; its gradient is the identity. On a GPU y may be f32 where x is bf16.
struct ResidualAdd {
  Tensor x_TD;
  ConstTensor y_TD;
};
void residual_add(const ResidualAdd& a);

KERNEL(void residual_add(const ResidualAdd&))

}  // namespace engine::ops
