#include "engine/train/shards.h"

namespace engine::train {
namespace {

using nn::kParameterBlock;

// Pieces of as many parameter blocks each; what is left over goes to `first` and the ranks behind it.
std::vector<int64_t> piece_begins(int64_t elements, int64_t ranks, int64_t first) {
  const int64_t blocks = elements / kParameterBlock;
  std::vector<int64_t> begins{0};
  for (int64_t rank = 0; rank < ranks; ++rank) {
    const int64_t more = (rank - first % ranks + ranks) % ranks < blocks % ranks ? 1 : 0;
    begins.push_back(begins.back() + (blocks / ranks + more) * kParameterBlock);
  }
  return begins;
}

}  // namespace

std::vector<LayerRange> layer_ranges(const nn::ParameterBlock& block, int64_t ranks) {
  std::vector<LayerRange> ranges;
  for (const nn::Parameter* parameter : block.members) {
    const int64_t layer = parameter->spec.layer;
    if (ranges.empty() || ranges.back().layer != layer) ranges.push_back({layer, parameter->begin, 0, {}});
    const int64_t blocks = (parameter->elements + kParameterBlock - 1) / kParameterBlock;
    ranges.back().end = parameter->begin + blocks * kParameterBlock;
  }
  int64_t first = 0;
  for (LayerRange& range : ranges) range.begins = piece_begins(range.end - range.begin, ranks, first++);
  return ranges;
}

int64_t shard_elements(const std::vector<LayerRange>& ranges, int rank) {
  int64_t elements = 0;
  for (const LayerRange& range : ranges) elements += range.piece_end(rank) - range.piece_begin(rank);
  return elements;
}

}  // namespace engine::train
