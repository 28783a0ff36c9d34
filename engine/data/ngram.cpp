#include "engine/data/ngram.h"

#include <algorithm>
#include <cmath>

#include "engine/core/error.h"

namespace engine::data {
namespace {

size_t slot_of(uint64_t key, size_t mask) {
  return static_cast<size_t>((key * 0x9E3779B97F4A7C15ull) >> 24) & mask;
}

uint64_t append(uint64_t key, uint16_t token) {
  return key << 9 | token;
}

}  // namespace

NgramModel::Table::Entry& NgramModel::Table::at(uint64_t key) {
  if (used * 2 >= entries.size()) grow();
  const size_t mask = entries.size() - 1;
  size_t i = slot_of(key, mask);
  while (entries[i].key != 0 && entries[i].key != key) i = (i + 1) & mask;
  if (entries[i].key == 0) entries[i].key = key, ++used;
  return entries[i];
}

const NgramModel::Table::Entry* NgramModel::Table::find(uint64_t key) const {
  const size_t mask = entries.size() - 1;
  for (size_t i = slot_of(key, mask); entries[i].key != 0; i = (i + 1) & mask) {
    if (entries[i].key == key) return &entries[i];
  }
  return nullptr;
}

void NgramModel::Table::grow() {
  std::vector<Entry> old(entries.size() * 2);
  old.swap(entries);
  const size_t mask = entries.size() - 1;
  for (const Entry& entry : old) {
    if (entry.key == 0) continue;
    size_t i = slot_of(entry.key, mask);
    while (entries[i].key != 0) i = (i + 1) & mask;
    entries[i] = entry;
  }
}

NgramModel::NgramModel(int order, int64_t vocabulary)
    : order_(order),
      uniform_(1.0 / static_cast<double>(vocabulary)),
      contexts_(static_cast<size_t>(order)),
      grams_(static_cast<size_t>(order)) {
  ENSURE(order >= 1 && order <= 5 && vocabulary <= 512, "order ", order, " over ", vocabulary, " tokens");
}

void NgramModel::train(std::span<const uint16_t> tokens) {
  for (size_t i = 0; i < tokens.size(); ++i) {
    for (size_t length = 0; length < static_cast<size_t>(order_) && length <= i; ++length) {
      uint64_t context = 1;
      for (size_t j = i - length; j < i; ++j) context = append(context, tokens[j]);
      Table::Entry& gram = grams_[length].at(append(context, tokens[i]));
      const bool is_new = gram.count++ == 0;
      Table::Entry& entry = contexts_[length].at(context);
      ++entry.count;
      entry.types += is_new ? 1 : 0;
    }
  }
}

double NgramModel::probability(const uint16_t* history, const uint16_t* end, uint16_t token) const {
  double p = uniform_;
  const int64_t longest = std::min<int64_t>(order_ - 1, end - history);
  for (int64_t length = 0; length <= longest; ++length) {
    uint64_t context = 1;
    for (const uint16_t* t = end - length; t < end; ++t) context = append(context, *t);
    const Table::Entry* entry = contexts_[static_cast<size_t>(length)].find(context);
    if (entry == nullptr) break;  // longer contexts were not seen either
    const Table::Entry* gram = grams_[static_cast<size_t>(length)].find(append(context, token));
    const double types = entry->types, count = gram == nullptr ? 0 : gram->count;
    p = (count + types * p) / (entry->count + types);
  }
  return p;
}

double NgramModel::bits(std::span<const uint16_t> tokens, size_t first) const {
  double bits = 0;
  for (size_t i = first; i < tokens.size(); ++i)
    bits -= std::log2(probability(tokens.data(), tokens.data() + i, tokens[i]));
  return bits;
}

double NgramModel::bits_per_token(std::span<const uint16_t> tokens) const {
  return tokens.size() < 2 ? 0 : bits(tokens, 1) / static_cast<double>(tokens.size() - 1);
}

}  // namespace engine::data
