// Groups of near-duplicate documents, so that a held-out text has no twin in training.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/data/documents.h"

namespace engine::data {

// For each document the number of its group, the lowest index in it. Texts are joined when MinHash over runs of five
// words (32 hashes in 8 bands of 4; Broder 1997) finds them alike: from a Jaccard similarity of about 0.6 on.
std::vector<int64_t> near_duplicate_groups(const std::vector<const Document*>& documents);

}  // namespace engine::data
