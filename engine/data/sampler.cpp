#include "engine/data/sampler.h"

#include <algorithm>
#include <bit>
#include <numeric>

#include "engine/core/error.h"
#include "engine/core/rng.h"

namespace engine::data {
namespace {

constexpr int64_t kPattern = 1024;

// Shares of the pattern by largest remainder, at least one slot each.
std::vector<int64_t> quotas_of(const Corpus& corpus) {
  double total = 0;
  for (const SourceSplit& source : corpus.sources) total += source.weight;
  std::vector<int64_t> quotas;
  std::vector<std::pair<double, size_t>> remainders;
  int64_t given = 0;
  for (size_t s = 0; s < corpus.sources.size(); ++s) {
    const double exact = corpus.sources[s].weight / total * kPattern;
    quotas.push_back(std::max<int64_t>(1, static_cast<int64_t>(exact)));
    given += quotas.back();
    remainders.push_back({static_cast<double>(quotas.back()) - exact, s});
  }
  std::sort(remainders.begin(), remainders.end());
  for (size_t i = 0; given < kPattern; i = (i + 1) % remainders.size(), ++given) ++quotas[remainders[i].second];
  while (given > kPattern) --*std::max_element(quotas.begin(), quotas.end()), --given;
  return quotas;
}

// Windows of one epoch whose start is shifted.
int64_t windows(int64_t tokens, int64_t seq_len, int64_t shift) {
  return (tokens - shift - 1) / seq_len;
}

}  // namespace

int64_t permute_index(uint64_t key, int64_t index, int64_t size) {
  if (size <= 1) return 0;
  const int half = (std::bit_width(static_cast<uint64_t>(size - 1)) + 1) / 2;
  const uint64_t mask = (uint64_t{1} << half) - 1;
  uint64_t x = static_cast<uint64_t>(index);
  do {
    uint64_t left = x >> half, right = x & mask;
    for (uint64_t round = 0; round < 4; ++round) {
      const uint64_t mixed = left ^ (philox(key, right, round)[0] & mask);
      left = right;
      right = mixed;
    }
    x = left << half | right;
  } while (x >= static_cast<uint64_t>(size));
  return static_cast<int64_t>(x);
}

Sampler::Sampler(const Corpus& corpus, int64_t seq_len, uint64_t seed)
    : corpus_(corpus), seq_len_(seq_len), seed_(seed), quotas_(quotas_of(corpus)) {
  for (const SourceSplit& source : corpus.sources) {
    const int64_t have = static_cast<int64_t>(source.train.tokens.size());
    if (have < seq_len + 1) {
      throw Error(ExitCode::data, str("source \"", source.train.name, "\" has ", have,
                                      " training tokens but one sample needs train.seq_len + 1 = ", seq_len + 1,
                                      "; use --set train.seq_len=", std::max<int64_t>(1, have - 1), " or add text"));
    }
    keys_.push_back(derive_key(seed, "windows/" + source.train.name));
  }
  std::vector<int64_t> given(quotas_.size());
  for (int64_t slot = 0; slot < kPattern; ++slot) {
    size_t next = 0;  // the source that is furthest behind its share
    int64_t most = INT64_MIN;
    for (size_t s = 0; s < quotas_.size(); ++s) {
      const int64_t behind = quotas_[s] * (slot + 1) - given[s] * kPattern;
      if (given[s] < quotas_[s] && behind > most) most = behind, next = s;
    }
    slot_source_.push_back(static_cast<uint32_t>(next));
    slot_count_.push_back(static_cast<uint32_t>(given[next]++));
  }
}

Sampler::Place Sampler::locate(int64_t sample) const {
  const size_t slot = static_cast<size_t>(sample % kPattern);
  const size_t source = slot_source_[slot];
  int64_t index = sample / kPattern * quotas_[source] + slot_count_[slot];
  const int64_t tokens = static_cast<int64_t>(corpus_.sources[source].train.tokens.size());
  // Epoch 0 has the windows of shift 0; later epochs are cut to the windows that every shift has.
  const int64_t first = windows(tokens, seq_len_, 0),
                later = std::max<int64_t>(1, windows(tokens, seq_len_, seq_len_ - 1));
  int64_t epoch = 0, count = first;
  if (index >= first) {
    epoch = 1 + (index - first) / later;
    index = (index - first) % later;
    count = later;
  }
  const uint64_t epoch_key = derive_key(keys_[source], std::to_string(epoch));
  const int64_t room = tokens - 1 - count * seq_len_;  // how far the windows can move
  const int64_t shift =
      epoch == 0
          ? 0
          : static_cast<int64_t>(uniform_below(epoch_key, static_cast<uint64_t>(std::min(room, seq_len_ - 1) + 1)));
  return {source, shift + permute_index(epoch_key, index, count) * seq_len_};
}

void Sampler::read(int64_t sample, int32_t* tokens) const {
  const Place place = locate(sample);
  const TokenList& list = corpus_.sources[place.source].train.tokens;
  uint16_t piece[1024];
  for (int64_t at = 0; at <= seq_len_; at += 1024) {
    const int64_t count = std::min<int64_t>(1024, seq_len_ + 1 - at);
    list.read(place.begin + at, count, piece);
    for (int64_t i = 0; i < count; ++i) tokens[at + i] = piece[i];
  }
}

}  // namespace engine::data
