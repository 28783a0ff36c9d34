// Every number of the load report against a case worked out by hand, and the floor of chance against draws.
#include "engine/train/load_report.h"

#include <cmath>
#include <random>

#include "engine/train/load_analysis.h"
#include "engine/train/load_watch.h"
#include "tests/support/compare.h"

namespace {

using namespace engine;
using namespace engine::train;

// P(X >= count) term by term, in long double.
double naive_upper_tail(int64_t tokens, double share, int64_t count) {
  long double sum = 0;
  for (int64_t k = count; k <= tokens; ++k) {
    long double term = 1;
    for (int64_t i = 0; i < k; ++i)
      term *= static_cast<long double>(tokens - i) / static_cast<long double>(i + 1) * share;
    sum += term * std::pow(1.0L - share, static_cast<long double>(tokens - k));
  }
  return static_cast<double>(sum);
}

// Tokens per expert where each token takes `slots` different experts at random, `favoured` more often than the others.
std::vector<int64_t> draw(std::mt19937_64& random, int64_t tokens, int64_t experts, int64_t slots, double excess = 0) {
  std::vector<int64_t> counts(static_cast<size_t>(experts)), order(static_cast<size_t>(experts));
  for (size_t e = 0; e < order.size(); ++e) order[e] = static_cast<int64_t>(e);
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t k = 0; k < slots; ++k) {
      const size_t other = static_cast<size_t>(k + static_cast<int64_t>(random() % static_cast<uint64_t>(experts - k)));
      std::swap(order[static_cast<size_t>(k)], order[other]);
      ++counts[static_cast<size_t>(order[static_cast<size_t>(k)])];
    }
  }
  const double mean = static_cast<double>(tokens * slots) / static_cast<double>(experts);
  const int64_t more = static_cast<int64_t>(excess * mean);
  counts[0] += more;
  for (int64_t i = 0; i < more; ++i) --counts[static_cast<size_t>(1 + i % (experts - 1))];
  return counts;
}

}  // namespace

TEST_CASE("load: metrics of a layer worked out by hand") {
  // 4 experts, 8 choices: shares 4/8, 2/8, 2/8, 0 and r = 2, 1, 1, 0
  const std::vector<int64_t> counts{4, 2, 2, 0};
  const LayerLoad load = measure_load(counts, 2, 1);
  CHECK(load.max_over_mean == doctest::Approx(2));
  CHECK(load.min_over_mean == 0);
  CHECK(load.violation == doctest::Approx(1));
  CHECK(load.mean_violation == doctest::Approx(0.5));
  CHECK(load.variation == doctest::Approx(std::sqrt(0.5)));
  CHECK(load.entropy == doctest::Approx(std::pow(2.0, 1.5) / 4));  // entropy 0.5 + 0.5 + 0.5 bits
  CHECK(load.dead == 1);
  CHECK(load.fullest == 0);
  CHECK(load.emptiest == 3);
  CHECK(load.variation_expected == doctest::Approx(0.5));  // p = 1/2, mean 2: sqrt(0.5 / 2)
  CHECK(load.dead_by_chance == doctest::Approx(4 * std::pow(0.5, 4)));
  CHECK_FALSE(load.beyond_chance);  // four tokens say nothing
  CHECK(measure_load(std::vector<int64_t>{0, 0}, 1, 1).dead == 2);
  const LayerLoad even = measure_load(std::vector<int64_t>{500, 500, 500, 500}, 2, 1);
  CHECK(even.max_over_mean == 1);
  CHECK(even.entropy == doctest::Approx(1));
  CHECK_FALSE(even.beyond_chance);
}

TEST_CASE("load: specialisation and percentiles by hand") {
  // each source has an expert of its own: one bit of one
  Specialisation s = measure_specialisation({{1000, 0}, {0, 1000}}, 1);
  CHECK(s.bits == doctest::Approx(1));
  CHECK(s.of == doctest::Approx(1));
  CHECK(s.by_chance < 0.01);
  CHECK(measure_specialisation({{300, 100}, {600, 200}}, 1).bits == doctest::Approx(0));
  // p = 1/2, 1/4 | 0, 1/4: sum of 1/2 log2(4/3), 1/4 log2(2/3), 1/4 log2(2)
  s = measure_specialisation({{2, 1}, {0, 1}}, 1);
  CHECK(s.bits == doctest::Approx(0.5 * std::log2(4.0 / 3) + 0.25 * std::log2(2.0 / 3) + 0.25));
  CHECK(s.of == doctest::Approx(0.75 * std::log2(4.0 / 3) + 0.25 * 2));
  CHECK(measure_specialisation({}, 1).bits == 0);
  // 6 and 2 of row 0's 8 choices beside 7 and 5 of all 12; row 2 has none
  const std::vector<std::vector<double>> use = relative_use({{6, 2, 0}, {1, 3, 0}, {0, 0, 0}});
  CHECK(use[0][0] == doctest::Approx((6.0 / 8) / (7.0 / 12)));
  CHECK(use[0][1] == doctest::Approx((2.0 / 8) / (5.0 / 12)));
  CHECK(use[1][1] == doctest::Approx((3.0 / 4) / (5.0 / 12)));
  CHECK(use[0][2] == 0);
  CHECK(use[2] == std::vector<double>(3));
  CHECK(percentile({4, 1, 3, 2}, 0.5) == doctest::Approx(2.5));
  CHECK(percentile({1, 2, 3, 4, 5}, 0.9) == doctest::Approx(4.6));
  CHECK(percentile({7}, 0.95) == 7);
}

TEST_CASE("load: binomial tails and the counts that chance allows") {
  for (double share : {0.03, 0.25, 0.5, 0.9}) {
    for (int64_t count : {0, 1, 5, 10, 17, 39, 40}) {
      INFO("share " << share << ", count " << count);
      CHECK(binomial_upper_tail(40, share, count) == doctest::Approx(naive_upper_tail(40, share, count)).epsilon(1e-9));
      CHECK(binomial_lower_tail(40, share, count) ==
            doctest::Approx(1 - naive_upper_tail(40, share, count + 1)).epsilon(1e-9).scale(1));
    }
  }
  CHECK(binomial_upper_tail(10, 0.5, 11) == 0);
  const Routing routing{.tokens = 1000, .experts = 8, .slots = 2};
  const CountRange range = chance_counts(routing, 8, 0.01);
  CHECK(binomial_upper_tail(1000, 0.25, range.high + 1) <= 0.01 / 16);
  CHECK(binomial_upper_tail(1000, 0.25, range.high) > 0.01 / 16);
  CHECK(binomial_lower_tail(1000, 0.25, range.low - 1) <= 0.01 / 16);
  CHECK(binomial_lower_tail(1000, 0.25, range.low) > 0.01 / 16);
  const CountRange none = chance_counts({.tokens = 2, .experts = 8, .slots = 1}, 8, 0.01);
  CHECK(none.low == 0);
  CHECK(none.high == 2);
  // capacity 1 for two tokens of which each goes here with probability 1/2: one is lost with 1/4, of a mean of 1
  CHECK(chance_dropped({.tokens = 2, .experts = 2, .slots = 1}, 1) == doctest::Approx(0.25));
  CHECK(chance_dropped({.tokens = 100, .experts = 4, .slots = 2}, 100) == 0);
}

TEST_CASE("load: random routing is shown as chance, a planted excess of 20 % is not") {
  std::mt19937_64 random(5);
  struct Shape {
    int64_t experts, slots;
  };
  for (const Shape shape : {Shape{8, 2}, Shape{64, 8}, Shape{256, 8}}) {
    int flagged = 0;
    double squares = 0;
    constexpr int kDraws = 1000;
    for (int i = 0; i < kDraws; ++i) {
      const LayerLoad load = measure_load(draw(random, 512, shape.experts, shape.slots), shape.slots, 1);
      flagged += load.beyond_chance ? 1 : 0;
      squares += load.variation * load.variation / kDraws;
      CHECK(load.variation_expected < load.variation_by_chance);
    }
    INFO(shape.experts << " experts: " << flagged << " of " << kDraws << " layers flagged");
    CHECK(flagged < kDraws / 100);
    const LayerLoad any = measure_load(draw(random, 512, shape.experts, shape.slots), shape.slots, 1);
    CHECK(std::sqrt(squares) == doctest::Approx(any.variation_expected).epsilon(0.02));
    // 50 steps of 4,096 tokens, in a report on 16 layers
    for (int i = 0; i < 2; ++i) {
      const LayerLoad load = measure_load(draw(random, 50 * 4096, shape.experts, shape.slots, 0.2), shape.slots, 16);
      CHECK(load.beyond_chance);
      CHECK(load.fullest == 0);
    }
  }
}

namespace {

LoadHistory history_of(const std::vector<std::vector<int64_t>>& windows, int64_t slots = 1) {
  LoadHistory history;
  int64_t step = 0;
  for (const std::vector<int64_t>& counts : windows) {
    LoadWindow& window = history.windows.emplace_back();
    window.first_step = step + 1;
    window.last_step = step += 10;
    window.seconds = 10;
    LayerWindow& layer = window.layers.emplace_back();
    layer.layer = 3;
    layer.tokens_per_expert = counts;
    for (int64_t count : counts) layer.tokens += count;
    layer.tokens /= slots;
    layer.probability.resize(counts.size());
    RankWindow& rank = window.ranks.emplace_back();
    rank.rows = {layer.tokens};
    rank.expert_seconds = 3;
  }
  return history;
}

}  // namespace

TEST_CASE("load: the verdict goes by cost, and deaths have a step") {
  Config config;
  config.model.num_experts = 4;
  config.model.router.aux_loss_coef = 0;
  // a lasting excess of 3 %: no chance, but balanced
  LoadAnalysis a = analyse_load(history_of({{103000, 99000, 99000, 99000}}), config);
  CHECK(a.layers[0].load.beyond_chance);
  CHECK(a.word == "balanced");
  CHECK(a.expert_share == doctest::Approx(0.3));
  CHECK(a.time_share == doctest::Approx(0.009 / 1.009));
  // an excess of 40 % makes a step 12 % longer where each expert has a rank
  a = analyse_load(history_of({{140000, 90000, 85000, 85000}}), config);
  CHECK(a.word == "skewed");
  CHECK(a.time_share == doctest::Approx(0.12 / 1.12));
  CHECK(a.advice[0].evidence.find("aux_loss_coef and bias_update_rate are 0") != std::string::npos);
  // expert 2 has its last token in the second of eight windows, expert 3 never had one
  std::vector<std::vector<int64_t>> windows(8, {600, 600, 0, 0});
  windows[0][2] = windows[1][2] = 50;
  const LoadHistory history = history_of(windows);
  a = analyse_load(history, config);
  CHECK(a.word == "collapsed");
  CHECK(a.first_step == 61);  // the last quarter
  CHECK(a.last_step == 80);
  REQUIRE(a.layers[0].deaths.size() == 2);
  CHECK(a.layers[0].deaths[0].expert == 2);
  CHECK(a.layers[0].deaths[0].step == 21);
  CHECK(a.layers[0].deaths[1].step == 1);
  CHECK(a.dead == 2);
  // the same shares with few tokens are chance
  CHECK(analyse_load(history_of({{6, 3, 2, 1}}), config).word == "balanced");
  // measured waiting, where there are ranks
  LoadHistory two = history_of({{1000, 1000, 1000, 1000}});
  two.windows[0].ranks.push_back(two.windows[0].ranks[0]);
  two.windows[0].ranks[1].wait_seconds = 2;
  two.windows[0].layers[0].mean_overload = 1.2;
  two.windows[0].ranks[0].rows = {3000};  // beside 1,000
  two.windows[0].ranks[1].rows = {1000};
  two.windows[0].layers[0].dropped = 100;  // of 4,000
  a = analyse_load(two, config);
  CHECK(a.ranks[0].overload == doctest::Approx(1.5));
  CHECK(a.ranks[1].overload == doctest::Approx(0.5));
  CHECK(a.ranks[0].wait_share == 0);
  CHECK(a.ranks[1].wait_share == doctest::Approx(0.2));
  CHECK(a.layers[0].drop_rate == doctest::Approx(0.025));
  CHECK(a.drop_rate == doctest::Approx(0.025));
  CHECK(a.time_share == doctest::Approx(0.1));  // 0 and 20 % of the time
  CHECK(a.word == "skewed");
  two.windows[0].ranks[1].wait_seconds = 0;  // not measured: from the rows
  CHECK(analyse_load(two, config).time_share == doctest::Approx(0.3 * 0.2));
}

TEST_CASE("load: a run says once that a layer stays uneven and that an expert is dead") {
  LoadHistory history = history_of(std::vector<std::vector<int64_t>>(40, {1600, 800, 800, 800}));
  for (size_t i = 0; i < 20; ++i) history.windows[i].layers[0].tokens_per_expert = {2000, 1000, 1000, 0};
  for (size_t i = 25; i < 30; ++i) history.windows[i].layers[0].tokens_per_expert = {1000, 1000, 1000, 1000};
  LoadWatch watch;
  std::vector<std::pair<size_t, std::string>> said;
  for (size_t i = 0; i < history.windows.size(); ++i) {
    for (const std::string& message : watch.look(history.windows[i])) said.push_back({i, message});
  }
  REQUIRE(said.size() == 3);
  CHECK(said[0].first == 4);  // 50 steps
  CHECK(said[0].second.find("layer 3: expert 3 got no token for 50 steps") == 0);
  CHECK(said[1].first == 9);  // 100 steps
  CHECK(said[1].second.find("expert 0 takes 2.00 x its share") != std::string::npos);
  CHECK(said[2].first == 39);  // uneven again, from the 31st window on
}
