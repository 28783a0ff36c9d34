#include "moe/jitter.h"

namespace moe {

void jitter(const Jitter& a) {
  DISPATCH(a.x_TD.device, jitter, a);
}

}  // namespace moe
