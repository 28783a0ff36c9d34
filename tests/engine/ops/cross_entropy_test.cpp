#include "engine/ops/cross_entropy.h"

#include "tests/support/compare.h"

namespace {

using namespace engine;
using test::tensor;

std::vector<double> reference(const std::vector<double>& logits, const std::vector<int32_t>& targets) {
  const size_t T = targets.size(), V = logits.size() / T;
  std::vector<double> losses;
  for (size_t t = 0; t < T; ++t) {
    double sum = 0;
    for (size_t v = 0; v < V; ++v) sum += std::exp(logits[t * V + v]);
    losses.push_back(targets[t] < 0 ? 0 : std::log(sum) - logits[t * V + static_cast<size_t>(targets[t])]);
  }
  return losses;
}

struct Result {
  std::vector<float> losses, dlogits;
};
Result run(const std::vector<float>& logits, const std::vector<int32_t>& targets, float scale) {
  const int64_t T = static_cast<int64_t>(targets.size()), V = static_cast<int64_t>(logits.size()) / T;
  Result result{test::poisoned(T), logits};
  ops::cross_entropy({.losses_T = tensor(result.losses, {T}),
                      .dlogits_TV = tensor(result.dlogits, {T, V}),
                      .logits_TV = tensor(result.dlogits, {T, V}),
                      .targets_T = ConstTensor(targets.data(), DType::i32, {T}),
                      .scale = scale});
  return result;
}

}  // namespace

TEST_CASE("cross_entropy: losses and gradient equal reference and finite differences") {
  for (int64_t V : {2, 16, 37}) {
    const std::vector<int32_t> targets{0, static_cast<int32_t>(V - 1), -1, 1};
    auto logits = test::values(1, 4 * V, 5);
    const Result result = run(logits, targets, 0.25f);
    test::check_close(result.losses, reference(test::to_double(logits), targets), 1e-6, "losses");
    auto expected = test::finite_difference(test::to_double(logits), [&](auto& x) {
      double sum = 0;
      for (double loss : reference(x, targets)) sum += 0.25 * loss;
      return sum;
    });
    test::check_close(result.dlogits, expected, 2e-6, "dlogits");
    for (int64_t v = 0; v < V; ++v) CHECK(result.dlogits[static_cast<size_t>(2 * V + v)] == 0);  // not counted
  }
}

TEST_CASE("cross_entropy: large logits do not overflow, and a target beyond the vocabulary is refused") {
  const Result result = run({1000, 0, -1000, 999}, {1}, 1);
  CHECK(result.losses[0] == doctest::Approx(1000 + std::log(1 + std::exp(-1.0))));
  // all far below zero: what pads a vector does not take part
  CHECK(run({-1000, -1001, -1002}, {1}, 1).losses[0] ==
        doctest::Approx(1 + std::log(1 + std::exp(-1.0) + std::exp(-2.0))));
  CHECK_THROWS_AS(run({0, 0}, {2}, 1), Error);
}

TEST_CASE("cross_entropy: the same bits on any thread and instruction set") {
  auto logits = test::values(1, 50 * 257, 8);
  std::vector<int32_t> targets;
  for (int t = 0; t < 50; ++t) targets.push_back(t * 5);
  test::check_same_everywhere([&] {
    Result result = run(logits, targets, 0.02f);
    result.losses.insert(result.losses.end(), result.dlogits.begin(), result.dlogits.end());
    return result.losses;
  });
}
