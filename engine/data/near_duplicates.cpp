#include "engine/data/near_duplicates.h"

#include <algorithm>
#include <array>
#include <map>
#include <numeric>

#include "engine/core/hash.h"
#include "engine/core/stop_request.h"
#include "engine/core/thread_pool.h"
#include "engine/data/word_runs.h"

namespace engine::data {
namespace {

constexpr size_t kHashes = 32, kBands = 8, kRowsPerBand = kHashes / kBands;
using BandKeys = std::array<uint64_t, kBands>;  // all zero: fewer than five words, like no other text

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

}  // namespace engine::data
