// What short contexts alone reach on a text: the bar for a model that is to have learnt more.
#pragma once

#include <vector>

#include "engine/data/corpus.h"

namespace engine::data {

// Bits per byte under interpolated 3-gram and 5-gram models of the training text; 0: the set is too short.
struct Baseline {
  double three_gram = 0, five_gram = 0;
};

// The models read at most this much training text, the beginning of each source in proportion to its size.
inline constexpr int64_t kBaselineTokens = int64_t{24} << 20;

std::vector<Baseline> measure_baselines(const Corpus& corpus, const std::vector<const TokenSet*>& sets);

}  // namespace engine::data
