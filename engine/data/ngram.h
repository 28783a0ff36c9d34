// Interpolated Witten-Bell n-gram models of tokens: what a model must beat to have learnt more than short contexts.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace engine::data {

// P(s | c) = (count(c s) + types(c) P(s | c')) / (count(c) + types(c)), c' without the oldest token, and
// 1 / vocabulary below the empty context (Witten and Bell 1991). Tokens are below 512, the order at most 5.
class NgramModel {
 public:
  NgramModel(int order, int64_t vocabulary);
  void train(std::span<const uint16_t> tokens);
  // Probability of `token` after the last order - 1 tokens of [history, end).
  double probability(const uint16_t* history, const uint16_t* end, uint16_t token) const;
  // Sum of -log2 P over tokens[first..], those before are their context.
  double bits(std::span<const uint16_t> tokens, size_t first) const;
  // Mean of -log2 P over all tokens but the first.
  double bits_per_token(std::span<const uint16_t> tokens) const;

 private:
  // Open addressing; keys hold tokens of nine bits below a leading one.
  struct Table {
    struct Entry {
      uint64_t key = 0;
      uint32_t count = 0, types = 0;
    };
    std::vector<Entry> entries = std::vector<Entry>(1024);
    size_t used = 0;
    Entry& at(uint64_t key);
    const Entry* find(uint64_t key) const;
    void grow();
  };
  int order_;
  double uniform_;
  std::vector<Table> contexts_, grams_;  // by length of the context
};

}  // namespace engine::data
