// Runs of n consecutive words of a text, by which texts are compared. A word is letters, digits and _.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/data/documents.h"

namespace engine::data {

// Hashes of all runs of `length` words of a text that comes in pieces.
class WordRuns {
 public:
  WordRuns(int64_t length, std::function<void(uint64_t)> use)
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

std::vector<uint64_t> word_ngrams(std::string_view text, int64_t length);

// Of a document, wherever its text is kept.
void for_each_run(const Document& document, int64_t length, const std::function<void(uint64_t)>& use);

// In order, each once; with `one_of` above 1 a part of them that is drawn by their hashes.
std::vector<uint64_t> distinct_runs(const std::vector<const Document*>& documents, int64_t length, uint64_t one_of = 1);

// Runs in order, each once. A bit for each says at once of most others that they are not among them.
class RunSet {
 public:
  explicit RunSet(std::vector<uint64_t> runs);
  size_t size() const { return runs_.size(); }
  // Where a run stands, or size().
  size_t find(uint64_t run) const {
    if ((bits_[run >> shift_ >> 6] >> (run >> shift_ & 63) & 1) == 0) return size();
    const auto found = std::lower_bound(runs_.begin(), runs_.end(), run);
    return found != runs_.end() && *found == run ? static_cast<size_t>(found - runs_.begin()) : size();
  }

 private:
  std::vector<uint64_t> runs_, bits_;
  int shift_ = 58;  // of a run, so that what remains is the number of its bit
};

// What to draw so that the runs of so much text are some millions.
uint64_t one_of_runs(int64_t bytes);

}  // namespace engine::data
