// Sampler: training sample n, a pure function of (seed, n) in constant time.
//
// Sources take turns in a pattern of 1,024 slots that holds each as often as its weight says. Within a source the
// sample is a window of S + 1 tokens at stride S; each epoch visits every window once in an order given by a keyed
// bijection, and begins at another shift (epoch 0 at none).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/data/corpus.h"

namespace engine::data {

class Sampler {
 public:
  // Throws Error(data) when a source is shorter than one sample.
  Sampler(const Corpus& corpus, int64_t seq_len, uint64_t seed);

  // The S + 1 tokens of sample n.
  void read(int64_t sample, int32_t* tokens) const;

  struct Place {
    size_t source;
    int64_t begin;  // first token in the source's training set
  };
  Place locate(int64_t sample) const;
  // Only its source, at once.
  size_t source_of(int64_t sample) const { return slot_source_[static_cast<size_t>(sample) % slot_source_.size()]; }
  // Slots of each source in the pattern.
  const std::vector<int64_t>& quotas() const { return quotas_; }

 private:
  const Corpus& corpus_;
  int64_t seq_len_;
  uint64_t seed_;
  std::vector<int64_t> quotas_;
  std::vector<uint32_t> slot_source_, slot_count_;  // source of each slot, and how often it came before in the pattern
  std::vector<uint64_t> keys_;
};

// A bijection of [0, size) under a key: four Feistel rounds, walked until the result is inside.
int64_t permute_index(uint64_t key, int64_t index, int64_t size);

}  // namespace engine::data
