// Texts, sources and comparisons for tests of the data pipeline.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "engine/core/rng.h"
#include "engine/data/corpus.h"
#include "tests/support/compare.h"

namespace test {

inline engine::SourceConfig source(const std::string& name, std::vector<std::string> files) {
  engine::SourceConfig config;
  config.name = name;
  config.files = std::move(files);
  return config;
}

// Lines of nine words, some not ASCII, that depend on the seed alone. Two seeds share no run of thirteen words, and
// none is suspect. Fewer lines are the beginning of more.
inline std::string prose(uint64_t seed, int64_t lines) {
  static const std::vector<std::string> words = {"the",   "of",
                                                 "and",   "river",
                                                 "stone", "light",
                                                 "house", "under",
                                                 "over",  "walk",
                                                 "bell",  "seven",
                                                 "green", "slow",
                                                 "table", "paper",
                                                 "north", "in",
                                                 "to",    "with",
                                                 "old",   "winter",
                                                 "wind",  "hill",
                                                 "bread", "\xc3\xa9t\xc3\xa9",
                                                 "sea",   "\xe2\x82\xac"};
  std::string text;
  for (int64_t n = 0; n < 9 * lines; ++n) {
    const uint64_t draw = engine::philox(seed, static_cast<uint64_t>(n))[0];
    text += words[draw % words.size()] + (draw >> 8 & 1 ? words[(draw >> 9) % words.size()] : "");
    text += n % 9 == 8 ? ".\n" : " ";
  }
  return text;
}

// Letters and digits without any order, which hardly compress.
inline std::string noise(uint64_t seed, int64_t bytes) {
  constexpr char kLetters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  for (int64_t i = 0; i < bytes; ++i) text += kLetters[engine::philox(seed, static_cast<uint64_t>(i))[0] % 64];
  return text;
}

inline void check_same(const engine::data::TokenSet& a, const engine::data::TokenSet& b) {
  CHECK(a.name == b.name);
  CHECK((a.tokens == b.tokens));
  CHECK(a.num_documents == b.num_documents);
  CHECK(a.num_bytes == b.num_bytes);
  CHECK(a.files == b.files);
  REQUIRE(a.places.size() == b.places.size());
  for (size_t i = 0; i < a.places.size(); ++i) {
    CHECK(a.places[i].first_token == b.places[i].first_token);
    CHECK(a.places[i].num_tokens == b.places[i].num_tokens);
    CHECK(a.places[i].file == b.places[i].file);
    CHECK(a.places[i].line == b.places[i].line);
    CHECK(a.places[i].line_begin == b.places[i].line_begin);
    CHECK(a.places[i].text_begin == b.places[i].text_begin);
  }
}

inline void check_same(const engine::data::Corpus& a, const engine::data::Corpus& b) {
  CHECK(a.manifest == b.manifest);
  REQUIRE(a.sources.size() == b.sources.size());
  REQUIRE(a.ood.size() == b.ood.size());
  for (size_t s = 0; s < a.sources.size(); ++s) {
    CHECK(a.sources[s].weight == b.sources[s].weight);
    CHECK(a.sources[s].overlap == b.sources[s].overlap);
    check_same(a.sources[s].train, b.sources[s].train);
    check_same(a.sources[s].held_out, b.sources[s].held_out);
  }
  for (size_t s = 0; s < a.ood.size(); ++s) check_same(a.ood[s], b.ood[s]);
}

}  // namespace test
