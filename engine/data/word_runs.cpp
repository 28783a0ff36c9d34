#include "engine/data/word_runs.h"

#include <algorithm>
#include <utility>

#include "engine/core/hash.h"

namespace engine::data {
namespace {

constexpr int64_t kTextOfAllRuns = int64_t{64} << 20;

bool is_word_character(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
         static_cast<unsigned char>(c) >= 0x80;
}

}  // namespace

void WordRuns::end_word(std::string_view word) {
  if (words_.size() == length_) words_.erase(words_.begin());
  words_.push_back(xxh3_64(word.data(), static_cast<int64_t>(word.size())));
  if (words_.size() == length_) use_(xxh3_64(words_.data(), static_cast<int64_t>(length_ * sizeof(uint64_t))));
}

void WordRuns::add(std::string_view piece) {
  for (size_t i = 0; i < piece.size();) {
    size_t end = i;
    while (end < piece.size() && is_word_character(piece[end])) ++end;
    const std::string_view word = piece.substr(i, end - i);
    if (end == piece.size()) {
      begun_ += word;
    } else if (!begun_.empty()) {
      begun_ += word;
      this->end();
    } else if (!word.empty()) {
      end_word(word);
    }
    i = end + 1;
  }
}

void WordRuns::end() {
  if (!begun_.empty()) end_word(begun_);
  begun_.clear();
}

std::vector<uint64_t> word_ngrams(std::string_view text, int64_t length) {
  std::vector<uint64_t> grams;
  WordRuns runs(length, [&](uint64_t gram) { grams.push_back(gram); });
  runs.add(text);
  runs.end();
  return grams;
}

void for_each_run(const Document& document, int64_t length, const std::function<void(uint64_t)>& use) {
  WordRuns runs(length, use);
  document.for_each_piece([&](std::string_view piece) { runs.add(piece); });
  runs.end();
}

std::vector<uint64_t> distinct_runs(const std::vector<const Document*>& documents, int64_t length, uint64_t one_of) {
  std::vector<uint64_t> all;
  for (const Document* document : documents) {
    for_each_run(*document, length, [&](uint64_t run) {
      if (one_of == 1 || run % one_of == 0) all.push_back(run);
    });
  }
  std::sort(all.begin(), all.end());
  all.erase(std::unique(all.begin(), all.end()), all.end());
  return all;
}

RunSet::RunSet(std::vector<uint64_t> runs) : runs_(std::move(runs)) {
  while (shift_ > 32 && (uint64_t{1} << (64 - shift_)) < 16 * runs_.size()) --shift_;
  bits_.resize(uint64_t{1} << (58 - shift_));
  for (uint64_t run : runs_) bits_[run >> shift_ >> 6] |= uint64_t{1} << (run >> shift_ & 63);
}

uint64_t one_of_runs(int64_t bytes) {
  return 1 + static_cast<uint64_t>(bytes / kTextOfAllRuns);
}

}  // namespace engine::data
