// Groups of near-duplicate documents, so that a held-out text has no twin in training.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace engine::data {

// Hashes of all runs of `length` words (letters, digits and _) of a text.
std::vector<uint64_t> word_ngrams(std::string_view text, int length);

// For each text the number of its group, the lowest index in it. Texts are joined when MinHash over runs of five
// words (32 hashes in 8 bands of 4; Broder 1997) finds them alike: from a Jaccard similarity of about 0.6 on.
std::vector<int64_t> near_duplicate_groups(const std::vector<std::string_view>& texts);

// Share of the distinct 13-word runs of `held_out` that also stand in `train`; 0 if there are none.
double ngram_overlap(const std::vector<std::string_view>& held_out, const std::vector<std::string_view>& train);

}  // namespace engine::data
