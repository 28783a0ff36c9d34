#include "engine/data/baselines.h"

#include <algorithm>

#include "engine/core/thread_pool.h"
#include "engine/data/ngram.h"
#include "engine/data/tokenizer.h"

namespace engine::data {
namespace {

constexpr int64_t kContext = 4, kPiece = 1 << 20;

double bits_per_byte(const NgramModel& model, const TokenSet& set) {
  const int64_t size = static_cast<int64_t>(set.tokens.size());
  double bits = 0;
  for (int64_t at = 1; at < size; at += kPiece) {
    const int64_t context = std::min(at, kContext);
    const std::vector<uint16_t> tokens = set.tokens.slice(at - context, context + std::min(kPiece, size - at));
    bits += model.bits(tokens, static_cast<size_t>(context));
  }
  return size < 2 ? 0 : bits / static_cast<double>(std::max<int64_t>(1, set.num_bytes - 1));
}

}  // namespace

std::vector<Baseline> measure_baselines(const Corpus& corpus, const std::vector<const TokenSet*>& sets) {
  const double share =
      std::min(1.0, static_cast<double>(kBaselineTokens) / std::max(1.0, static_cast<double>(corpus.train_tokens())));
  NgramModel three(3, kByteVocabulary), five(5, kByteVocabulary);
  parallel_for(2, [&](int64_t i) {
    for (const SourceSplit& source : corpus.sources) {
      const double size = static_cast<double>(source.train.tokens.size());
      (i == 0 ? three : five).train(source.train.tokens.slice(0, static_cast<int64_t>(share * size)));
    }
  });
  std::vector<Baseline> baselines(sets.size());
  parallel_for(static_cast<int64_t>(sets.size()) * 2, [&](int64_t i) {
    const size_t at = static_cast<size_t>(i / 2);
    if (i % 2 == 0) {
      baselines[at].three_gram = bits_per_byte(three, *sets[at]);
    } else {
      baselines[at].five_gram = bits_per_byte(five, *sets[at]);
    }
  });
  return baselines;
}

}  // namespace engine::data
