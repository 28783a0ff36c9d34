// The grid on which weight gradients of several granules are added exactly (engine/core/gradient.h).
//
// Each weight has a bound, the largest |p| of a granule in the last step that had one, rounded up to a power of
// two. Its grid's unit is bound * 2^(h + g - 52), g = ceil(log2 granules), so that sums of values up to
// bound * 2^h are exact, and h = 21 - g gives at least 31 bits below the bound, finer than fp32. A step in which
// some |p| is larger is computed again with the new bounds: rare, and decided alike on every rank, because the
// largest of values depends on no order. The first step is always computed twice; it finds the bounds.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "comm/group.h"
#include "engine/nn/parameters.h"
#include "engine/train/tensor_table.h"

namespace engine::train {

class GradientGrid {
 public:
  GradientGrid(const TensorTable& table, int64_t granules);

  // Sets each weight's grid and forgets what was seen.
  void begin_step();

  // Collective. True: sums are exact. False: compute the step again, with the bounds found now.
  // Throws Error(numerical) naming the first weight with a gradient that is not finite.
  [[nodiscard]] bool end_step(comm::Group& world);

  // By weight in table order; part of a checkpoint.
  const std::vector<double>& bounds() const { return bounds_; }
  void set_bounds(std::vector<double> bounds);

 private:
  const TensorTable& table_;
  int64_t granules_;
  int headroom_bits_;
  std::vector<double> bounds_;
  std::vector<int64_t> largest_bits_;
};

}  // namespace engine::train
