// How long the products of a step's experts take on this GPU in each way that it knows (engine/ops/grouped_way.h).
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "engine/config/config.h"
#include "engine/ops/grouped_way.h"
#include "engine/train/step_ops.h"

namespace engine::train {

struct GroupedWays {
  struct Time {
    ops::GroupedWay way;
    std::optional<double> seconds;  // of one call; none where the way does not take the types
  };
  struct Product {
    std::string name;  // "experts down_proj forward"
    double flops;      // of one call
    DType operands, results;
    std::vector<Time> times;  // in the order of ops::kGroupedWays

    ops::GroupedWay fastest() const;
  };
  int64_t experts = 0, rows = 0;  // of this rank; at all of them
  std::vector<Product> products;
};

// At the shapes of a step, with tokens spread evenly, for about `seconds` in all. The ways take turns on the same
// operands, a few calls queued at once, and the median of the turns counts.
// In bf16, widths that are no multiple of 8 are not batched but done as one_stream, and timed as that.
GroupedWays time_grouped_ways(const Config& config, const Layout& layout, double seconds);

}  // namespace engine::train
