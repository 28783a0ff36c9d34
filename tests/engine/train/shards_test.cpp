#include "engine/train/shards.h"

#include <algorithm>

#include "tests/support/compare.h"

using namespace engine;
using nn::kParameterBlock;

TEST_CASE("shards: every rank has its part of every layer, and all ranks as much") {
  constexpr int64_t kLayers = 5, kBlocks = 7;
  nn::ParameterStore store;
  for (int64_t layer = 0; layer < kLayers; ++layer) {
    store.add({.name = str("a.", layer), .dims = {3 * kParameterBlock - 5}, .layer = layer});
    store.add({.name = str("b.", layer), .dims = {(kBlocks - 3) * kParameterBlock}, .layer = layer});
  }
  store.commit(1, false);
  for (int ranks : {1, 2, 3, 4, 9}) {
    const auto ranges = train::layer_ranges(store.dense(), ranks);
    REQUIRE(std::ssize(ranges) == kLayers);
    int64_t least = store.dense().elements, most = 0, all = 0;
    for (int rank = 0; rank < ranks; ++rank) {
      const int64_t elements = train::shard_elements(ranges, rank);
      least = std::min(least, elements), most = std::max(most, elements), all += elements;
      for (const train::LayerRange& range : ranges) {
        CHECK(range.piece_begin(rank) == (rank == 0 ? range.begin : range.piece_end(rank - 1)));
        CHECK(range.piece_end(rank) - range.piece_begin(rank) >= kBlocks / ranks * kParameterBlock);
        CHECK(range.piece_begin(rank) % kParameterBlock == 0);
      }
    }
    CHECK(all == kLayers * kBlocks * kParameterBlock);
    CHECK(most - least <= 2 * kParameterBlock);
    for (int64_t layer = 0; layer < kLayers; ++layer) {
      const train::LayerRange& range = ranges[static_cast<size_t>(layer)];
      CHECK(range.layer == layer);
      CHECK(range.begin == layer * kBlocks * kParameterBlock);
      CHECK(range.piece_end(ranks - 1) == range.end);
    }
  }
}
