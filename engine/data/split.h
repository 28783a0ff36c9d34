// Which documents are held out of training.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/config/config.h"
#include "engine/data/documents.h"

namespace engine::data {

struct Split {
  std::vector<Document> train, held_out;  // by path
};

// By whole near-duplicate groups over all sources, in a random order that depends on the seed, until each source
// has its fraction (at least its smallest group); or the last fraction of each source's bytes. A source that `groups`
// cannot divide throws Error(data). Takes the documents out of `sources` and leaves the rest.
std::vector<Split> split_sources(std::vector<SourceDocuments>&& sources, const HeldOutConfig& config, uint64_t seed);

}  // namespace engine::data
