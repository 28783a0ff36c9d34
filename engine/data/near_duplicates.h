// Groups of near-duplicate documents, so that a held-out text has no twin in training.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/data/documents.h"

namespace engine::data {

// Hashes of all runs of `length` words (letters, digits and _) of a text that comes in pieces.
class WordRuns {
 public:
  WordRuns(int length, std::function<void(uint64_t)> use)
      : length_(static_cast<size_t>(length)), use_(std::move(use)) {}
  void add(std::string_view piece);
  void end();  // of the text

 private:
  void end_word(std::string_view word);
  size_t length_;
  std::function<void(uint64_t)> use_;
  std::string begun_;            // a word that may go on in the next piece
  std::vector<uint64_t> words_;  // hashes of the last ones
};

std::vector<uint64_t> word_ngrams(std::string_view text, int length);

// For each document the number of its group, the lowest index in it. Texts are joined when MinHash over runs of five
// words (32 hashes in 8 bands of 4; Broder 1997) finds them alike: from a Jaccard similarity of about 0.6 on.
std::vector<int64_t> near_duplicate_groups(const std::vector<const Document*>& documents);

// Share of the distinct 13-word runs of `held_out` that also stand in `train`; 0 if there are none. Of more than some
// millions of runs a part is looked at that is drawn by their hashes.
double ngram_overlap(const std::vector<Document>& held_out, const std::vector<Document>& train);

}  // namespace engine::data
