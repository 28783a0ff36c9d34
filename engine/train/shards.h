// How the weights of a flat block are divided among the ranks that hold them.
//
// The weights of each layer are cut, at parameter-block boundaries, into one piece per rank, so that all ranks have
// work when a layer is reduced. A rank's pieces of all layers are its shard of the block.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/nn/parameters.h"

namespace engine::train {

// Weights of one layer that lie beside each other in a flat block.
struct LayerRange {
  int64_t layer;                // -1: outside of blocks
  int64_t begin, end;           // in the flat block
  std::vector<int64_t> begins;  // [ranks + 1] of the ranks' pieces, relative to `begin`

  int64_t piece_begin(int rank) const { return begin + begins[static_cast<size_t>(rank)]; }
  int64_t piece_end(int rank) const { return begin + begins[static_cast<size_t>(rank) + 1]; }
};

std::vector<LayerRange> layer_ranges(const nn::ParameterBlock& block, int64_t ranks);

// Of a rank's shard.
int64_t shard_elements(const std::vector<LayerRange>& ranges, int rank);

}  // namespace engine::train
