#include "engine/ops/squared_norm.h"

namespace engine::ops {

void squared_norm(const SquaredNorm& a) {
  ENSURE(a.block > 0 && a.x_N.is_contiguous(), "blocks of ", a.block, " elements");
  DISPATCH(a.x_N.device, squared_norm, a);
}

}  // namespace engine::ops
