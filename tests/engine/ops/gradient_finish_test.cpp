#include "engine/ops/gradient_finish.h"

#include "tests/support/compare.h"

TEST_CASE("gradient_finish: sums are rounded to floats once and then zero") {
  test::check_same_everywhere([] {
    std::vector<double> sums;
    for (int64_t i = 0; i < 20001; ++i)
      sums.push_back(static_cast<double>(test::value(1, i)) + 1e-9 * static_cast<double>(i));
    const auto before = sums;
    auto gradient = test::poisoned(20001);
    engine::ops::gradient_finish({.gradient_N = test::tensor(gradient, {20001}), .sum_N = sums.data()});
    for (size_t i = 0; i < before.size(); ++i) {
      REQUIRE(gradient[i] == static_cast<float>(before[i]));
      REQUIRE(sums[i] == 0);
    }
    return gradient;
  });
}
