// The same values in another storage type.
#pragma once

#include "engine/core/dispatch.h"
#include "engine/core/tensor.h"

namespace engine::ops {

// y = x, elementwise, rounded to nearest even where y is bf16; f32 or bf16 each, both contiguous. y is overwritten.
struct Convert {
  Tensor y_TD;
  ConstTensor x_TD;
};
void convert(const Convert& a);

KERNEL(void convert(const Convert&))

}  // namespace engine::ops
