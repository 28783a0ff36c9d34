#include "engine/data/near_duplicates.h"

#include <algorithm>
#include <array>
#include <map>
#include <numeric>

#include "engine/core/hash.h"
#include "engine/core/rng.h"
#include "engine/core/thread_pool.h"

namespace engine::data {
namespace {

constexpr int kHashes = 32, kBands = 8, kRowsPerBand = kHashes / kBands;
using Signature = std::array<uint64_t, kHashes>;

bool is_word_character(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
         static_cast<unsigned char>(c) >= 0x80;
}

Signature signature_of(std::string_view text) {
  Signature signature;
  signature.fill(UINT64_MAX);
  for (uint64_t gram : word_ngrams(text, 5)) {
    for (size_t i = 0; i < kHashes; ++i) {
      uint64_t h = (gram + 0x9E3779B97F4A7C15ull * (i + 1)) * 0xBF58476D1CE4E5B9ull;
      signature[i] = std::min(signature[i], h ^ (h >> 29));
    }
  }
  return signature;
}

int64_t find_root(std::vector<int64_t>& parents, int64_t i) {
  while (parents[static_cast<size_t>(i)] != i) {
    parents[static_cast<size_t>(i)] = parents[static_cast<size_t>(parents[static_cast<size_t>(i)])];
    i = parents[static_cast<size_t>(i)];
  }
  return i;
}

std::vector<uint64_t> sorted_ngrams(const std::vector<std::string_view>& texts) {
  std::vector<uint64_t> all;
  for (std::string_view text : texts) {
    const std::vector<uint64_t> grams = word_ngrams(text, 13);
    all.insert(all.end(), grams.begin(), grams.end());
  }
  std::sort(all.begin(), all.end());
  all.erase(std::unique(all.begin(), all.end()), all.end());
  return all;
}

}  // namespace

std::vector<uint64_t> word_ngrams(std::string_view text, int length) {
  std::vector<uint64_t> words, grams;
  for (size_t i = 0; i < text.size();) {
    if (!is_word_character(text[i])) {
      ++i;
      continue;
    }
    size_t end = i;
    while (end < text.size() && is_word_character(text[end])) ++end;
    words.push_back(xxh3_64(text.data() + i, static_cast<int64_t>(end - i)));
    i = end;
  }
  const size_t n = static_cast<size_t>(length);
  for (size_t i = 0; i + n <= words.size(); ++i) {
    grams.push_back(xxh3_64(words.data() + i, static_cast<int64_t>(n * sizeof(uint64_t))));
  }
  return grams;
}

std::vector<int64_t> near_duplicate_groups(const std::vector<std::string_view>& texts) {
  std::vector<Signature> signatures(texts.size());
  parallel_for(static_cast<int64_t>(texts.size()),
               [&](int64_t i) { signatures[static_cast<size_t>(i)] = signature_of(texts[static_cast<size_t>(i)]); });
  std::vector<int64_t> parents(texts.size());
  std::iota(parents.begin(), parents.end(), 0);
  for (size_t band = 0; band < kBands; ++band) {
    std::map<uint64_t, int64_t> first_with;
    for (size_t i = 0; i < texts.size(); ++i) {
      if (signatures[i][0] == UINT64_MAX) continue;  // fewer than five words: like no other
      const uint64_t key = xxh3_64(signatures[i].data() + band * kRowsPerBand, kRowsPerBand * sizeof(uint64_t));
      const auto [place, is_first] = first_with.emplace(key, static_cast<int64_t>(i));
      if (is_first) continue;
      const int64_t a = find_root(parents, place->second), b = find_root(parents, static_cast<int64_t>(i));
      parents[static_cast<size_t>(std::max(a, b))] = std::min(a, b);
    }
  }
  for (size_t i = 0; i < parents.size(); ++i) parents[i] = find_root(parents, static_cast<int64_t>(i));
  return parents;
}

double ngram_overlap(const std::vector<std::string_view>& held_out, const std::vector<std::string_view>& train) {
  const std::vector<uint64_t> ours = sorted_ngrams(held_out), theirs = sorted_ngrams(train);
  int64_t shared = 0;
  for (uint64_t gram : ours) shared += std::binary_search(theirs.begin(), theirs.end(), gram) ? 1 : 0;
  return ours.empty() ? 0 : static_cast<double>(shared) / static_cast<double>(ours.size());
}

}  // namespace engine::data
