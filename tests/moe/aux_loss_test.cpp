#include "moe/aux_loss.h"

#include "tests/support/compare.h"

namespace {

using namespace engine;

constexpr int64_t E = 5, K = 2;
const int64_t kWidth = moe::routing_sums_width(E);

// The sums of ranges of so many tokens, with probabilities that add up to 1.
std::vector<double> sums_of(const std::vector<int64_t>& tokens) {
  std::vector<double> sums(tokens.size() * static_cast<size_t>(kWidth));
  for (size_t i = 0; i < tokens.size(); ++i) {
    double* range = sums.data() + i * static_cast<size_t>(kWidth);
    for (int64_t choice = 0; choice < tokens[i] * K; ++choice) range[E + choice * choice % E] += 1;
    for (int64_t e = 0; e < E; ++e) range[e] = static_cast<double>(tokens[i] * (e + 1)) / 15;
    range[2 * E + moe::kCounted] = static_cast<double>(tokens[i]);
  }
  return sums;
}

// The definition: E sum_e f_e P_e.
double definition(const double* range, const double* counts) {
  double choices = 0, loss = 0;
  const double tokens = range[2 * E + moe::kCounted];
  for (int64_t e = 0; e < E; ++e) choices += counts[e];
  if (choices == 0 || tokens == 0) return 0;
  for (int64_t e = 0; e < E; ++e) loss += counts[e] / choices * (range[e] / tokens);
  return static_cast<double>(E) * loss;
}

}  // namespace

TEST_CASE("aux_loss: each granule gets the losses of its sequences on top of what it has") {
  const std::vector<double> sums = sums_of({7, 3, 0, 11, 2, 5});
  test::for_each_cpu_target([&] {
    std::vector<double> granules(static_cast<size_t>(2 * kWidth), 0.5);
    moe::sequence_losses({.granule_sums = granules.data(),
                          .sequence_sums = sums.data(),
                          .num_granules = 2,
                          .sequences_per_granule = 3,
                          .num_experts = E});
    for (int64_t g = 0; g < 2; ++g) {
      double expected = 0.5;
      for (int64_t s = 3 * g; s < 3 * g + 3; ++s) {
        expected += definition(sums.data() + s * kWidth, sums.data() + s * kWidth + E);
      }
      for (int64_t place = 0; place < kWidth; ++place) {
        const double value = granules[static_cast<size_t>(g * kWidth + place)];
        CHECK(value == doctest::Approx(place == 2 * E + moe::kAuxLoss ? expected : 0.5).epsilon(1e-12));
      }
    }
  });
}

TEST_CASE("aux_loss: the gradient is the finite difference of the definition, by a range's counts or by given ones") {
  std::vector<double> sums = sums_of({7, 0, 11});
  const std::vector<double> given{4, 0, 9, 1, 6};
  for (const double* counts : {static_cast<const double*>(nullptr), given.data()}) {
    test::for_each_cpu_target([&] {
      std::vector<float> gradient = test::poisoned(3 * E);
      moe::switch_loss_gradient({.dprobabilities_NE = gradient.data(),
                                 .sums = sums.data(),
                                 .counts_E = counts,
                                 .factor = 0.3,
                                 .num_ranges = 3,
                                 .num_experts = E});
      for (int64_t i = 0; i < 3; ++i) {
        double* range = sums.data() + i * kWidth;
        const double* n = counts != nullptr ? counts : range + E;
        for (int64_t e = 0; e < E; ++e) {
          const double p = range[e];
          range[e] = p + 0.5;
          const double above = definition(range, n);
          range[e] = p - 0.5;
          const double below = definition(range, n);
          range[e] = p;
          CHECK(static_cast<double>(gradient[static_cast<size_t>(i * E + e)]) ==
                doctest::Approx(0.3 * (above - below)).epsilon(1e-6));
        }
      }
    });
  }
}

TEST_CASE("aux_loss: the loss of a range's sums is that of its numbers") {
  const std::vector<double> sums = sums_of({9});
  const std::vector<int64_t> counts(sums.begin() + E, sums.begin() + 2 * E);
  CHECK(moe::switch_loss(sums.data(), E) == moe::switch_loss(counts, {sums.data(), static_cast<size_t>(E)}, 9));
  CHECK(moe::switch_loss(sums_of({0}).data(), E) == 0);
}
