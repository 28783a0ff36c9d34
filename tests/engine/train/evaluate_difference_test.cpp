#include "engine/train/evaluate_difference.h"

#include <cmath>
#include <memory>

#include "comm/parallel_groups.h"
#include "engine/train/evaluate_requirement.h"
#include "engine/train/trainer.h"
#include "tests/support/compare.h"
#include "tests/support/tiny_run.h"

namespace {

using namespace engine;
using namespace engine::train;

// Nearly normal: the sum of twelve uniform numbers.
double normal(uint64_t seed, uint64_t n) {
  double sum = -6;
  for (uint64_t i = 0; i < 12; ++i) sum += static_cast<double>(uniform_from_bits(philox(seed, n, i)[0]));
  return sum;
}

struct Pair {
  EvalResult a, b;
};

// Windows of 100 tokens, the last one short, whose losses differ by `shift` nats per token on average and by noise that
// windows of the same document share: an autoregression with factor 0.6.
Pair synthetic(uint64_t seed, int64_t windows, double shift, double spread = 0.05) {
  Pair pair;
  double noise = 0;
  for (int64_t w = 0; w < windows; ++w) {
    const uint64_t n = static_cast<uint64_t>(w);
    const double tokens = w + 1 == windows ? 37 : 100, level = 1.5 + 0.5 * normal(seed + 1000000, n);
    noise = 0.6 * noise + spread * normal(seed, n);
    pair.a.window_tokens.push_back(static_cast<int64_t>(tokens));
    pair.a.window_nats.push_back((level + shift + noise) * tokens);
    pair.b.window_nats.push_back(level * tokens);
  }
  pair.b.window_tokens = pair.a.window_tokens;
  return pair;
}

}  // namespace

TEST_CASE("evaluate_difference: Student's quantile") {
  for (const auto& [degrees, expected] : {std::pair{1.0, 12.7062},
                                          {2.0, 4.30265},
                                          {3.0, 3.18245},
                                          {4.0, 2.77645},
                                          {10.0, 2.22814},
                                          {63.0, 1.99834},
                                          {1e6, 1.95997}})
    CHECK(student_quantile(degrees) == doctest::Approx(expected).epsilon(0.002));
}

TEST_CASE("evaluate_difference: the hand-computed case") {
  EvalResult a, b;
  a.window_tokens = b.window_tokens = {10, 10, 20};
  a.window_nats = {20, 22, 40};
  b.window_nats = {19, 20, 41};
  // D = 1, 2, -1; m = 2 / 40; residuals 0.5, 1.5, -2; var = 3 / 2 x 6.5 / 1600
  const LossDifference d = difference_of({&a}, {&b});
  CHECK(d.mean == doctest::Approx(0.05));
  CHECK(d.high - d.mean == doctest::Approx(4.30265 * std::sqrt(1.5 * 6.5 / 1600)));
  CHECK(d.mean - d.low == doctest::Approx(d.high - d.mean));
  CHECK(d.windows == 3);
  CHECK(d.verdict() == "no difference shown");
  // two sources: weights 40 / 80 each, so half the reach by the root of two, with twice the degrees of freedom
  const LossDifference two = difference_of({&a, &a}, {&b, &b});
  CHECK(two.mean == doctest::Approx(0.05));
  CHECK(two.high - two.mean == doctest::Approx(2.77645 * std::sqrt(1.5 * 6.5 / 1600 / 2)).epsilon(0.002));
  EvalResult one, other;
  one.window_tokens = other.window_tokens = {10};
  one.window_nats = {10}, other.window_nats = {20};
  CHECK(!difference_of({&one}, {&other}).has_interval);
  CHECK(difference_of({&one}, {&other}).verdict() == "no difference shown");
  for (const LossDifference& joined :
       {difference_of({&one, &a}, {&other, &b}), difference_of({&a, &one}, {&b, &other})}) {
    CHECK(joined.windows == 4);
    CHECK(joined.mean == doctest::Approx((2.0 - 10.0) / 50));
    CHECK(joined.high > joined.low);
  }
}

TEST_CASE("evaluate_difference: identical models are equal, 200 times") {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    const Pair pair = synthetic(seed, 300, 0.1);
    const LossDifference d = difference_of({&pair.a}, {&pair.a});
    CHECK(d.identical);
    CHECK(d.mean == 0);
    CHECK(d.low == 0);
    CHECK(d.high == 0);
    CHECK(d.verdict() == "no difference shown");
  }
}

TEST_CASE("evaluate_difference: the interval holds the true difference at the stated rate, 200 times") {
  for (int64_t windows : {40, 200, 1000}) {
    CAPTURE(windows);
    const double shift = 0.3;  // any: only the noise about it matters
    int missed = 0, missed_by_single_windows = 0;
    for (uint64_t seed = 0; seed < 200; ++seed) {
      const Pair pair = synthetic(seed, windows, shift);
      const LossDifference d = difference_of({&pair.a}, {&pair.b});
      CHECK(!d.identical);
      missed += shift < d.low || shift > d.high ? 1 : 0;
      double mean = 0, square = 0;  // as if neighbours had nothing to do with each other
      for (size_t w = 0; w < static_cast<size_t>(windows); ++w)
        mean += (pair.a.window_nats[w] - pair.b.window_nats[w]) / 100 / static_cast<double>(windows);
      for (size_t w = 0; w < static_cast<size_t>(windows); ++w)
        square += std::pow((pair.a.window_nats[w] - pair.b.window_nats[w]) / 100 - mean, 2);
      const double count = static_cast<double>(windows);
      missed_by_single_windows += std::abs(mean - shift) > 1.96 * std::sqrt(square / count / (count - 1)) ? 1 : 0;
    }
    MESSAGE(windows, " windows: ", missed, " of 200 intervals miss, ", missed_by_single_windows, " without blocks");
    CHECK(missed <= 18);  // 5 %: 10 expected, at most 18 with probability 0.99
    CHECK(missed >= 3);
    CHECK(missed_by_single_windows > 40);
  }
}

TEST_CASE("evaluate_difference: small damage is called worse and its repair better, 200 times") {
  int worse = 0, better = 0, wrong = 0;
  for (uint64_t seed = 0; seed < 200; ++seed) {
    const Pair pair = synthetic(seed, 1000, 0.02);  // four standard deviations of the mean
    const std::string verdict = difference_of({&pair.a}, {&pair.b}).verdict();
    const std::string reverse = difference_of({&pair.b}, {&pair.a}).verdict();
    worse += verdict == "worse" ? 1 : 0;
    better += reverse == "better" ? 1 : 0;
    wrong += verdict == "better" || reverse == "worse" ? 1 : 0;
  }
  CHECK(worse >= 190);
  CHECK(better == worse);
  CHECK(wrong == 0);
}

namespace {

// A small model that has learnt its pattern, and texts of it.
struct Trained {
  ThreadPool pool{1};
  Config config = test::tiny_config();
  comm::ParallelGroups groups = comm::make_parallel_groups(comm::make_self_group(), 1);
  std::unique_ptr<Trainer> trainer;
  std::unique_ptr<Evaluator> evaluator;
  std::vector<float> weights;

  Trained() {
    pool.make_current();
    trainer = std::make_unique<Trainer>(config, groups);
    trainer->begin_digest();
    for (int64_t step = 0; step < 60; ++step) {
      trainer->train_step(step * config.sequences_per_step(),
                          [&](int64_t sample, int32_t* tokens) { test::tiny_sample(config, sample, tokens); });
    }
    evaluator = std::make_unique<Evaluator>(trainer->model(), *groups.world, 12, trainer->max_rows(), true);
    const float* trained = trainer->store().dense().weights.f32();
    weights.assign(trained, trained + trainer->store().dense().elements);
  }
  // Noise on every dense weight of the trained model; 0 mends it.
  void damage(float noise, uint64_t seed) {
    float* now = trainer->store().dense().weights.f32();
    for (size_t i = 0; i < weights.size(); ++i)
      now[i] = weights[i] + noise * test::value(seed, static_cast<int64_t>(i));
    trainer->store().weights_changed();
  }
  // On samples drawn at random.
  EvalResult evaluate(uint64_t seed, int64_t windows) {
    data::TokenSet set;
    std::vector<int32_t> sample(13);
    for (int64_t n = 0; n < windows; ++n) {
      test::tiny_sample(config, 5000 + philox(seed, static_cast<uint64_t>(n))[0] % 100000, sample.data());
      for (size_t s = 0; s < 12; ++s) set.tokens.push_back(static_cast<uint16_t>(sample[s]));
    }
    return evaluator->run("s", data::EvalWindows(set, 12));
  }
};

}  // namespace

TEST_CASE("evaluate_difference: a trained model damaged by small noise is worse, and undamaged the same, 200 times") {
  Trained model;
  std::vector<EvalResult> whole;
  for (uint64_t n = 0; n < 200; ++n) whole.push_back(model.evaluate(n, 100));
  CHECK(whole[0].window_tokens.size() == 100);
  CHECK(whole[0].tokens == 12 * 100 - 1);
  int worse = 0;
  for (uint64_t n = 0; n < 200; ++n) {
    CHECK(difference_of({&whole[n]}, {&whole[n]}).verdict() == "no difference shown");
    model.damage(0.01f, n + 1);  // by noise of its own each time
    const EvalResult damaged = model.evaluate(n, 100);
    const LossDifference d = difference_of({&damaged}, {&whole[n]});
    CHECK(d.mean == doctest::Approx(damaged.loss - whole[n].loss).epsilon(1e-6));
    CHECK(d.verdict() != "better");
    CHECK(difference_of({&whole[n]}, {&damaged}).mean == doctest::Approx(-d.mean));
    worse += d.verdict() == "worse" ? 1 : 0;
  }
  MESSAGE(worse, " of 200 damaged models are called worse");
  CHECK(worse >= 190);
  model.damage(0, 0);
  for (uint64_t n = 0; n < 200; ++n) {
    const EvalResult mended = model.evaluate(n, 100);
    CHECK(difference_of({&mended}, {&whole[n]}).identical);
  }
}

TEST_CASE("evaluate_difference: of a damaged model the interval holds the difference on all text at the stated rate") {
  Trained model;
  constexpr uint64_t kTexts = 200;
  std::vector<EvalResult> whole, damaged;
  for (uint64_t n = 0; n < kTexts; ++n) whole.push_back(model.evaluate(n, 100));
  model.damage(0.01f, 1);
  double difference = 0;
  for (uint64_t n = 0; n < kTexts; ++n) {
    damaged.push_back(model.evaluate(n, 100));
    difference += (damaged[n].loss - whole[n].loss) / kTexts;
  }
  int missed = 0;
  for (uint64_t n = 0; n < kTexts; ++n) {
    const LossDifference d = difference_of({&damaged[n]}, {&whole[n]});
    missed += difference < d.low || difference > d.high ? 1 : 0;
  }
  MESSAGE("true difference ", difference, ", ", missed, " of 200 intervals miss it");
  CHECK(missed <= 18);  // 5 %: 10 expected, at most 18 with probability 0.99
  CHECK(missed >= 3);
}

TEST_CASE("evaluate_requirement: sets, metrics and relations are read, and mistakes explained") {
  const Requirement r = parse_requirement("held_out.bpb<2.4");
  CHECK(r.set == "held_out");
  CHECK(r.metric == "bpb");
  CHECK(r.holds(2.39));
  CHECK(!r.holds(2.4));
  CHECK(!r.holds(std::nan("")));
  CHECK(parse_requirement("held_out.bpb<=2.4").holds(2.4));
  CHECK(!parse_requirement("ood:x.tokens > 1e3").holds(1000));
  CHECK(parse_requirement(" ood:x.y.tokens >= 1e3 ").holds(1000));
  CHECK(parse_requirement("ood:x.y.tokens>=1000").set == "ood:x.y");
  CHECK(parse_requirement("a.delta<-0.5").limit == -0.5);
  CHECK(unmet_message(r, 2.61) == "held_out.bpb is 2.61 but must be < 2.4");
  for (const auto& [text, message] : {std::pair{"held_out.bpb", "has no < or >"},
                                      {"held_out.bpb=2", "has no < or >"},
                                      {"bpb<2", "names no set"},
                                      {".bpb<2", "names no set"},
                                      {"held_out.bits<2", "asks for \"bits\" but a set has loss, bpb, perplexity"},
                                      {"held_out.bpb<two", "has \"two\" where a number must stand"},
                                      {"held_out.bpb<", "where a number must stand"},
                                      {"held_out.bpb<2.4x", "where a number must stand"},
                                      {"held_out.bpb<nan", "where a number must stand"}}) {
    CHECK_THROWS_WITH_AS(parse_requirement(text), doctest::Contains(message), Error);
  }
}
