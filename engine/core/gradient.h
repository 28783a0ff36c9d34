// How a weight gradient is summed so that its bits do not depend on passes, threads or ranks.
//
// A step's batch is cut into granules (blocks of whole sequences with a global number). Inside a granule the
// gradient is one chain of additions in token order, held in `chain` from pass to pass. When the granule ends
// its value p is rounded to a grid all granules share, q = (p + grid) - grid with grid = 1.5 * 2^52 * unit, and
// added to `sum`. Every q is a multiple of `unit` and the total fits 53 bits, so each addition is exact and the
// order of granules, ranks and messages cannot matter (Demmel and Nguyen, "Fast reproducible floating-point
// summation", 2013, use the same rounding).
//
// With one granule per step there is nothing to add: `sum` is null and `chain` is the gradient.
#pragma once

#include <cstdint>

#include "engine/core/tensor.h"

namespace engine {

struct WeightGradient {
  Tensor chain;                        // f32, shape of the weight; zero when a granule begins
  double* sum = nullptr;               // [elements of chain], or null
  double grid = 0;                     // 1.5 * 2^52 * unit; 0: not known yet, only max_bits is wanted
  const double* grid_there = nullptr;  // on a GPU, where kernels find it there instead; or null
  uint32_t* max_bits = nullptr;        // bits of the largest |p| so far; from 0x7f800000 on, p was not finite

  // The same gradient for rows [begin, begin + count).
  ALWAYS_INLINE WeightGradient slice_rows(int64_t begin, int64_t count) const {
    WeightGradient part = *this;
    part.chain = chain.slice_rows(begin, count);
    if (sum != nullptr) part.sum = sum + begin * chain.row_stride;
    return part;
  }
};

// Which rows of a pass belong to which granule: granule i of the pass holds rows offsets[i] to offsets[i + 1].
// A pass is whole granules or an equal part of one; in the latter case count is 1 and `ends` tells whether the
// granule is complete after it, `begins` whether it begins with it. Where that is not known `begins` is false: the
// chain is zero then, and is read in vain.
struct GranuleRows {
  const int64_t* offsets = nullptr;  // [count + 1], in host memory on every device
  int64_t count = 0;
  bool ends = true;
  bool begins = false;
};

}  // namespace engine
