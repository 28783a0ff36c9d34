#include "engine/ops/gradient_finish.h"

namespace engine::ops {

void gradient_finish(const GradientFinish& a) {
  ENSURE(a.sum_N != nullptr || a.gradient_N.num_elements() == 0, "there are no sums to finish");
  DISPATCH(a.gradient_N.device, gradient_finish, a);
}

}  // namespace engine::ops
