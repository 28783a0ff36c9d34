#include "engine/data/sampler.h"

#include <map>
#include <set>

#include "engine/core/error.h"
#include "engine/data/eval_windows.h"
#include "engine/data/ngram.h"
#include "tests/support/compare.h"

namespace {

using namespace engine;
using namespace engine::data;

// Source s holds tokens s * 10000, s * 10000 + 1, ...
Corpus counting_corpus(const std::vector<std::pair<int64_t, double>>& sources) {
  Corpus corpus;
  for (size_t s = 0; s < sources.size(); ++s) {
    SourceSplit& split = corpus.sources.emplace_back();
    split.weight = sources[s].second;
    split.train.name = str("s", s);
    for (int64_t i = 0; i < sources[s].first; ++i)
      split.train.tokens.push_back(static_cast<uint16_t>(s * 10000 + static_cast<size_t>(i)));
  }
  return corpus;
}

}  // namespace

TEST_CASE("sampler: permute_index is a bijection of every size") {
  for (int64_t size : {1, 2, 3, 5, 16, 17, 100, 1000}) {
    for (uint64_t key : {1u, 2u}) {
      std::set<int64_t> seen;
      for (int64_t i = 0; i < size; ++i) seen.insert(permute_index(key, i, size));
      CHECK(static_cast<int64_t>(seen.size()) == size);
      CHECK(*seen.begin() == 0);
      CHECK(*seen.rbegin() == size - 1);
    }
  }
}

TEST_CASE("sampler: an epoch visits every window once, the next in another order and shift") {
  const int64_t S = 8, windows = 12;
  const Corpus corpus = counting_corpus({{windows * S + 1 + 5, 1}});
  const Sampler sampler(corpus, S, 42);
  std::vector<int64_t> first, second;
  for (int64_t n = 0; n < windows; ++n) first.push_back(sampler.locate(n).begin);
  CHECK(std::set<int64_t>(first.begin(), first.end()).size() == windows);
  for (int64_t begin : first) CHECK(begin % S == 0);
  const int64_t later = 12;  // windows that every shift has: (102 - 7 - 1) / 8 = 11
  for (int64_t n = windows; n < windows + later - 1; ++n) second.push_back(sampler.locate(n).begin);
  const std::set<int64_t> distinct(second.begin(), second.end());
  CHECK(distinct.size() == second.size());
  std::set<int64_t> shifts;
  for (int64_t begin : second) shifts.insert(begin % S);
  CHECK(shifts.size() == 1);
  CHECK(second != std::vector<int64_t>(first.begin(), first.begin() + static_cast<int64_t>(second.size())));
  std::vector<int32_t> tokens(S + 1);
  for (int64_t n : {0, 5, 23, 1000, 123456}) {  // any sample without the ones before it
    sampler.read(n, tokens.data());
    for (int64_t i = 0; i <= S; ++i) CHECK(tokens[static_cast<size_t>(i)] == sampler.locate(n).begin + i);
  }
}

TEST_CASE("sampler: sources take turns by weight, exactly over the pattern and evenly within it") {
  const Corpus corpus = counting_corpus({{500, 3}, {300, 1}, {100, 0.0001}});
  const Sampler sampler(corpus, 16, 1);
  std::map<size_t, int64_t> counts;
  for (int64_t n = 0; n < 1024; ++n) ++counts[sampler.locate(n).source];
  CHECK(counts[0] == sampler.quotas()[0]);
  CHECK(counts[0] + counts[1] + counts[2] == 1024);
  CHECK(counts[0] == doctest::Approx(768).epsilon(0.01));
  CHECK(counts[2] == 1);
  int64_t in_first_quarter = 0;
  for (int64_t n = 0; n < 256; ++n) in_first_quarter += sampler.locate(n).source == 0 ? 1 : 0;
  CHECK(std::abs(in_first_quarter - 192) <= 2);
}

TEST_CASE("sampler: too little text is explained with numbers") {
  const Corpus corpus = counting_corpus({{20, 1}});
  CHECK_THROWS_WITH_AS(Sampler(corpus, 32, 1),
                       doctest::Contains("has 20 training tokens but one sample needs train.seq_len + 1 = 33"), Error);
}

TEST_CASE("eval_windows: every token but the first is predicted exactly once") {
  for (int64_t size : {2, 8, 9, 10, 40, 41}) {
    TokenSet set;
    for (int64_t i = 0; i < size; ++i) set.tokens.push_back(static_cast<uint16_t>(i));
    const EvalWindows windows(set, 8);
    std::vector<int> predicted(static_cast<size_t>(size));
    int64_t total = 0;
    for (int64_t w = 0; w < windows.count(); ++w) {
      int32_t inputs[8], targets[8];
      total += windows.read(w, inputs, targets);
      for (int s = 0; s < 8; ++s) {
        if (targets[s] < 0) continue;
        CHECK(targets[s] == inputs[s] + 1);
        ++predicted[static_cast<size_t>(targets[s])];
      }
    }
    CHECK(total == size - 1);
    CHECK(predicted[0] == 0);
    for (size_t i = 1; i < predicted.size(); ++i) CHECK(predicted[i] == 1);
    CHECK(EvalWindows(set, 8, 8).count() == 1);
  }
}

TEST_CASE("ngram: the hand-computed case, and probabilities sum to one") {
  NgramModel model(2, 4);
  model.train(std::vector<uint16_t>{0, 1, 0, 1, 0, 2});
  // after 0: seen 1 twice, 2 once, two types; below it unigram 3/6, 2/6, 1/6 with three types
  const double uniform = 0.25, p1 = (2 + 3 * uniform) / (6 + 3), p3 = (0 + 3 * uniform) / (6 + 3);
  const uint16_t history[] = {0};
  CHECK(model.probability(history, history + 1, 1) == doctest::Approx((2 + 2 * p1) / (3 + 2)));
  CHECK(model.probability(history, history + 1, 3) == doctest::Approx((0 + 2 * p3) / (3 + 2)));
  NgramModel five(5, 257);
  std::vector<uint16_t> text;
  for (int i = 0; i < 3000; ++i) text.push_back(static_cast<uint16_t>(philox(1, static_cast<uint64_t>(i))[0] % 7 * 31));
  five.train(text);
  for (size_t at : {size_t{1}, size_t{10}, size_t{2000}}) {
    double sum = 0;
    for (uint16_t token = 0; token < 257; ++token) sum += five.probability(text.data(), text.data() + at, token);
    CHECK(sum == doctest::Approx(1.0).epsilon(1e-9));
  }
  CHECK(five.bits_per_token(text) < 3.0);  // seven symbols: less than log2 7 on its own training text
}
