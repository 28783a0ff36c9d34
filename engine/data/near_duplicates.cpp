#include "engine/data/near_duplicates.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <map>
#include <numeric>

#include "engine/core/hash.h"
#include "engine/core/rng.h"
#include "engine/core/stop_request.h"
#include "engine/core/thread_pool.h"

namespace engine::data {
namespace {

constexpr size_t kHashes = 32, kBands = 8, kRowsPerBand = kHashes / kBands;
using BandKeys = std::array<uint64_t, kBands>;  // all zero: fewer than five words, like no other text
constexpr int kOverlapWords = 13;
constexpr int64_t kOverlapBytes = int64_t{64} << 20;  // of held-out text whose runs are looked at one and all

bool is_word_character(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
         static_cast<unsigned char>(c) >= 0x80;
}

void for_each_run(const Document& document, int length, const std::function<void(uint64_t)>& use) {
  WordRuns runs(length, use);
  document.for_each_piece([&](std::string_view piece) { runs.add(piece); });
  runs.end();
}

BandKeys band_keys(const Document& document) {
  std::array<uint64_t, kHashes> least;
  least.fill(UINT64_MAX);
  for_each_run(document, 5, [&](uint64_t gram) {
    for (size_t i = 0; i < kHashes; ++i) {
      uint64_t h = (gram + 0x9E3779B97F4A7C15ull * (i + 1)) * 0xBF58476D1CE4E5B9ull;
      least[i] = std::min(least[i], h ^ (h >> 29));
    }
  });
  BandKeys keys{};
  if (least[0] == UINT64_MAX) return keys;
  for (size_t band = 0; band < kBands; ++band)
    keys[band] = xxh3_64(least.data() + band * kRowsPerBand, kRowsPerBand * sizeof(uint64_t));
  return keys;
}

int64_t find_root(std::vector<int64_t>& parents, int64_t i) {
  while (parents[static_cast<size_t>(i)] != i) {
    parents[static_cast<size_t>(i)] = parents[static_cast<size_t>(parents[static_cast<size_t>(i)])];
    i = parents[static_cast<size_t>(i)];
  }
  return i;
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

std::vector<uint64_t> word_ngrams(std::string_view text, int length) {
  std::vector<uint64_t> grams;
  WordRuns runs(length, [&](uint64_t gram) { grams.push_back(gram); });
  runs.add(text);
  runs.end();
  return grams;
}

std::vector<int64_t> near_duplicate_groups(const std::vector<const Document*>& documents) {
  std::vector<BandKeys> keys(documents.size());
  parallel_for(static_cast<int64_t>(documents.size()),
               [&](int64_t i) { keys[static_cast<size_t>(i)] = band_keys(*documents[static_cast<size_t>(i)]); });
  std::vector<int64_t> parents(documents.size());
  std::iota(parents.begin(), parents.end(), 0);
  for (size_t band = 0; band < kBands; ++band) {
    throw_if_stop_requested();
    std::map<uint64_t, int64_t> first_with;
    for (size_t i = 0; i < documents.size(); ++i) {
      if (keys[i] == BandKeys{}) continue;
      const auto [place, is_first] = first_with.emplace(keys[i][band], static_cast<int64_t>(i));
      if (is_first) continue;
      const int64_t a = find_root(parents, place->second), b = find_root(parents, static_cast<int64_t>(i));
      parents[static_cast<size_t>(std::max(a, b))] = std::min(a, b);
    }
  }
  for (size_t i = 0; i < parents.size(); ++i) parents[i] = find_root(parents, static_cast<int64_t>(i));
  return parents;
}

double ngram_overlap(const std::vector<Document>& held_out, const std::vector<Document>& train) {
  int64_t bytes = 0;
  for (const Document& document : held_out) bytes += document.bytes();
  const uint64_t one_of = 1 + static_cast<uint64_t>(bytes / kOverlapBytes);
  std::vector<uint64_t> ours;
  for (const Document& document : held_out) {
    for_each_run(document, kOverlapWords, [&](uint64_t run) {
      if (run % one_of == 0) ours.push_back(run);
    });
  }
  std::sort(ours.begin(), ours.end());
  ours.erase(std::unique(ours.begin(), ours.end()), ours.end());
  if (ours.empty()) return 0;
  std::vector<std::atomic<bool>> shared(ours.size());
  parallel_for(static_cast<int64_t>(train.size()), [&](int64_t i) {
    for_each_run(train[static_cast<size_t>(i)], kOverlapWords, [&](uint64_t run) {
      if (run % one_of != 0) return;
      const auto found = std::lower_bound(ours.begin(), ours.end(), run);
      if (found != ours.end() && *found == run)
        shared[static_cast<size_t>(found - ours.begin())].store(true, std::memory_order_relaxed);
    });
  });
  return static_cast<double>(std::count(shared.begin(), shared.end(), true)) / static_cast<double>(ours.size());
}

}  // namespace engine::data
