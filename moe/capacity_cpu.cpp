#include "moe/capacity.h"

namespace moe::SIMD_TARGET {

void drop_over_capacity(const DropOverCapacity& a) {
  for (int64_t g = 0; g < a.granules.count; ++g) a.dropped[g] = drop_of_granule(a, g);
}

}  // namespace moe::SIMD_TARGET
