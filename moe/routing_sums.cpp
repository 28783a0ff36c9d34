#include "moe/routing_sums.h"

namespace moe {
namespace {

int64_t blocks_of(const RoutingSums& a, int64_t range) {
  return (a.offsets[range + 1] - a.offsets[range] + kRoutingBlock - 1) / kRoutingBlock;
}

}  // namespace

int64_t routing_blocks(const RoutingSums& a) {
  int64_t blocks = 0;
  for (int64_t i = 0; i < a.count; ++i) blocks += blocks_of(a, i);
  return blocks;
}

void add_block_sums(const RoutingSums& a, const double* block_sums) {
  const int64_t width = routing_sums_width(a.scores_TE.columns());
  for (int64_t i = 0; i < a.count; ++i) {
    for (int64_t block = 0; block < blocks_of(a, i); ++block, block_sums += width) {
      for (int64_t place = 0; place < width; ++place) a.sums[i * width + place] += block_sums[place];
    }
  }
}

void routing_sums(const RoutingSums& a) {
  ENSURE(a.count == 0 || a.offsets[a.count] <= a.scores_TE.rows(), "ranges end at row ", a.offsets[a.count], " of ",
         a.scores_TE.rows());
  DISPATCH(a.scores_TE.device, routing_sums, a);
}

}  // namespace moe
