// Sums and largest values over ranks, taken in rank order.
#pragma once

#include <span>

#include "engine/core/tensor.h"

namespace comm {

enum class Reduction { sum, max };

// out[i] = over ranks r, in order: element i of parts[r]. f64, f32 or i64; integers wrap. `out` may be one of the
// parts.
void reduce_ranks(void* out, std::span<const char* const> parts, int64_t count, engine::DType dtype,
                  Reduction reduction);

}  // namespace comm
