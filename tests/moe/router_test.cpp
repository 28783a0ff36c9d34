// The test vectors are hand calculations: four tokens, four experts, two choices; and eight experts in groups.
#include "moe/router.h"

#include <algorithm>
#include <numeric>

#include "moe/aux_loss.h"
#include "moe/expert_bias.h"
#include "tests/support/compare.h"

namespace {

using namespace moe;
using engine::DType;
using test::tensor;

struct Routed {
  std::vector<float> scores, weights, lse, entropy;
  std::vector<int32_t> idx;
};

Routed route(const std::vector<float>& logits, int64_t E, int64_t K, const RouterOptions& options,
             const std::vector<float>& bias = {}) {
  const int64_t T = static_cast<int64_t>(logits.size()) / E;
  Routed r{test::poisoned(T * E), test::poisoned(T * K), test::poisoned(T), test::poisoned(T),
           std::vector<int32_t>(static_cast<size_t>(T * K), -9)};
  router_forward({.scores_TE = tensor(r.scores, {T, E}),
                  .topk_weights_TK = tensor(r.weights, {T, K}),
                  .topk_idx_TK = Tensor(r.idx.data(), DType::i32, {T, K}),
                  .lse_T = tensor(r.lse, {T}),
                  .entropy_T = tensor(r.entropy, {T}),
                  .logits_TE = tensor(logits, {T, E}),
                  .bias_E = bias.empty() ? ConstTensor() : tensor(bias, {E}),
                  .options = options});
  return r;
}

const std::vector<float> kLogits{2, 1, 0, -1, 2, 0, 1, -1, 0, 3, 1, 2, 1, 2, -1, 0};

std::vector<int64_t> counts_of(const Routed& r, size_t E) {
  std::vector<int64_t> counts(E);
  for (int32_t e : r.idx) ++counts[static_cast<size_t>(e)];
  return counts;
}

std::vector<double> probability_sums(const Routed& r, size_t E) {
  std::vector<double> sums(E);
  for (size_t i = 0; i < r.scores.size(); ++i) sums[i % E] += static_cast<double>(r.scores[i]);
  return sums;
}

// logits whose sigmoid is s
std::vector<float> logits_of(const std::vector<double>& s) {
  std::vector<float> z;
  for (double x : s) z.push_back(static_cast<float>(std::log(x / (1 - x))));
  return z;
}
const std::vector<double> kScores{.90, .10, .20, .60, .55, .55, .50, .50};

void check_weights(const std::vector<float>& actual, const std::vector<double>& expected) {
  REQUIRE(actual.size() == expected.size());
  for (size_t i = 0; i < expected.size(); ++i)
    CHECK(static_cast<double>(actual[i]) == doctest::Approx(expected[i]).epsilon(1e-5));
}

}  // namespace

TEST_CASE("router: choices and weights of the hand-computed case") {
  test::for_each_cpu_target([] {
    const Routed r = route(kLogits, 4, 2, {});
    CHECK(r.idx == std::vector<int32_t>{0, 1, 0, 2, 1, 3, 1, 0});
    check_weights(r.weights, {0.731059, 0.268941, 0.731059, 0.268941, 0.731059, 0.268941, 0.731059, 0.268941});
    CHECK(counts_of(r, 4) == std::vector<int64_t>{3, 3, 1, 1});
    const std::vector<double> shares{0.389192, 0.402964, 0.110808, 0.097036}, sums = probability_sums(r, 4);
    for (size_t e = 0; e < 4; ++e) CHECK(sums[e] / 4 == doctest::Approx(shares[e]).epsilon(1e-5));
  });
}

TEST_CASE("router: the hand-computed case gives Megatron's, transformers' and the z-loss values") {
  const Routed r = route(kLogits, 4, 2, {});
  const auto counts = counts_of(r, 4);
  const auto sums = probability_sums(r, 4);
  CHECK(switch_loss(counts, sums, 4) == doctest::Approx(1.292156).epsilon(1e-6));
  CHECK(2 * switch_loss(counts, sums, 4) == doctest::Approx(2.584313).epsilon(1e-6));  // K times, for one layer
  double z = 0;
  for (float lse : r.lse) z += static_cast<double>(lse) * static_cast<double>(lse) / 4;
  CHECK(z == doctest::Approx(7.424621).epsilon(1e-6));
}

TEST_CASE("router: forced uniform routing has a balance loss of exactly 1") {
  std::vector<float> logits = test::values(3, 32 * 8, 3);
  const Routed r = route(logits, 8, 2, {.force_uniform = true});
  const auto counts = counts_of(r, 8);
  for (int64_t count : counts) CHECK(count == 8);
  CHECK(switch_loss(counts, probability_sums(r, 8), 32) == doctest::Approx(1.0).epsilon(1e-6));
}

TEST_CASE("router: groups are limited by the two best of each, and masked experts never come in") {
  const auto logits = logits_of(kScores);
  const RouterOptions options{
      .scores = ScoreFunction::sigmoid, .scaling = 2.5f, .num_groups = 4, .groups_per_token = 2};
  const Routed two = route(logits, 8, 2, options);
  CHECK(two.idx == std::vector<int32_t>{0, 4});
  check_weights(two.weights, {1.551724, 0.948276});
  // with a bias that makes values negative, masking with 0 would choose experts of other groups
  const std::vector<float> bias{-.95f, -.2f, -.4f, -.9f, -.3f, -.3f, -.6f, -.7f};
  const Routed four = route(logits, 8, 4, options, bias);
  CHECK(four.idx == std::vector<int32_t>{4, 5, 0, 1});
  check_weights(four.weights, {0.654762, 0.654762, 1.071429, 0.119048});
}

TEST_CASE(
    "router: no token chooses from more groups than it may, nor an expert twice, and weights add to the scaling") {
  const int64_t T = 200, E = 24, K = 6;
  const auto logits = test::values(21, T * E, 4), bias = test::values(22, E, 0.3f);
  for (ScoreFunction scores : {ScoreFunction::softmax, ScoreFunction::sigmoid}) {
    const RouterOptions options{.scores = scores, .scaling = 2.5f, .num_groups = 6, .groups_per_token = 2};
    const Routed r = route(logits, E, K, options, bias);
    for (int64_t t = 0; t < T; ++t) {
      std::vector<int> groups(6), experts(static_cast<size_t>(E));
      double sum = 0;
      for (int64_t k = 0; k < K; ++k) {
        const size_t e = static_cast<size_t>(r.idx[static_cast<size_t>(t * K + k)]);
        groups[e / 4] = 1, ++experts[e];
        sum += static_cast<double>(r.weights[static_cast<size_t>(t * K + k)]);
      }
      CHECK(std::accumulate(groups.begin(), groups.end(), 0) <= 2);
      CHECK(*std::max_element(experts.begin(), experts.end()) == 1);
      CHECK(sum == doctest::Approx(2.5).epsilon(1e-6));
    }
  }
}

TEST_CASE("router: equal scores go to the lower expert, and all experts can be chosen") {
  const Routed r = route({1, 1, 1, 1, 1}, 5, 5, {});
  CHECK(r.idx == std::vector<int32_t>{0, 1, 2, 3, 4});
  check_weights(r.weights, {0.2, 0.2, 0.2, 0.2, 0.2});
  CHECK(static_cast<double>(r.entropy[0]) == doctest::Approx(std::log(5.0)));
}

TEST_CASE("router: backward equals finite differences for every kind of score, with both balance losses") {
  const int64_t T = 3, E = 6, K = 2;
  auto logits = test::values(11, T * E, 2), dweights = test::values(12, T * K);
  const std::vector<float> dp = test::values(13, E);
  const float z_factor = 0.3f;
  for (ScoreFunction scores : {ScoreFunction::softmax, ScoreFunction::sigmoid}) {
    for (bool normalize : {false, true}) {
      const RouterOptions options{.scores = scores, .normalize = normalize, .scaling = 1.5f};
      const Routed r = route(logits, E, K, options);
      const auto loss = [&](const std::vector<double>& z) {
        double total = 0;
        for (size_t t = 0; t < T; ++t) {
          double sum = 0, chosen = 0, all = 0;
          std::vector<double> s(E);
          for (size_t e = 0; e < E; ++e) sum += std::exp(z[t * E + e]);
          for (size_t e = 0; e < E; ++e) {
            s[e] = scores == ScoreFunction::softmax ? std::exp(z[t * E + e]) / sum : 1 / (1 + std::exp(-z[t * E + e]));
            all += s[e];
          }
          for (size_t k = 0; k < K; ++k) chosen += s[static_cast<size_t>(r.idx[t * K + k])];
          for (size_t k = 0; k < K; ++k) {
            total += 1.5 * s[static_cast<size_t>(r.idx[t * K + k])] / (normalize ? chosen : 1) *
                     static_cast<double>(dweights[t * K + k]);
          }
          for (size_t e = 0; e < E; ++e)
            total += static_cast<double>(dp[e]) * s[e] / (scores == ScoreFunction::sigmoid ? all : 1);
          total += static_cast<double>(z_factor) * std::log(sum) * std::log(sum);
        }
        return total;
      };
      auto dlogits = test::poisoned(T * E);
      const int64_t offsets[2] = {0, T};
      router_backward({.dlogits_TE = tensor(dlogits, {T, E}),
                       .dtopk_weights_TK = tensor(dweights, {T, K}),
                       .scores_TE = tensor(r.scores, {T, E}),
                       .topk_idx_TK = ConstTensor(r.idx.data(), DType::i32, {T, K}),
                       .logits_TE = tensor(logits, {T, E}),
                       .lse_T = tensor(r.lse, {T}),
                       .balance = {.offsets = offsets, .count = 1, .dprobabilities = dp.data(), .z_factors = &z_factor},
                       .options = options});
      test::check_close(dlogits, test::finite_difference(test::to_double(logits), loss), 1e-5, "dlogits");
    }
  }
}

TEST_CASE("router: the same bits on any thread and instruction set") {
  auto logits = test::values(21, 200 * 40, 4);
  test::check_same_everywhere([&] {
    Routed r = route(logits, 40, 6, {.num_groups = 4, .groups_per_token = 2});
    for (int32_t e : r.idx) r.weights.push_back(static_cast<float>(e));
    r.weights.insert(r.weights.end(), r.lse.begin(), r.lse.end());
    return r.weights;
  });
}

TEST_CASE("expert_bias: one step of the rule from integer counts") {
  ExpertBias bias(4, 1e-3);
  bias.update(std::vector<int64_t>{3, 3, 1, 1});
  check_weights(bias.values(), {-1e-3, -1e-3, 1e-3, 1e-3});
  ExpertBias skewed(4, 1e-3);
  skewed.update(std::vector<int64_t>{5, 1, 1, 1});
  check_weights(skewed.values(), {-1e-3, 1e-3, 1e-3, 1e-3});
}
