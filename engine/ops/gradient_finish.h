// The end of a step's gradient: exact sums over granules become floats.
#pragma once

#include "engine/core/dispatch.h"
#include "engine/core/tensor.h"

namespace engine::ops {

// gradient[i] = (float)sum[i], sum[i] = 0
struct GradientFinish {
  Tensor gradient_N;
  double* sum_N = nullptr;
};
void gradient_finish(const GradientFinish& a);

KERNEL(void gradient_finish(const GradientFinish&))

}  // namespace engine::ops
