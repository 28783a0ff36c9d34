#include "engine/ops/residual_add.h"

#include "tests/support/compare.h"

TEST_CASE("residual_add: adds every element once") {
  test::check_same_everywhere([] {
    auto x = test::values(1, 40001), y = test::values(2, 40001);
    const auto before = x;
    engine::ops::residual_add({.x_TD = test::tensor(x, {40001}), .y_TD = test::tensor(y, {40001})});
    std::vector<float> expected;
    for (size_t i = 0; i < x.size(); ++i) expected.push_back(before[i] + y[i]);
    test::check_same_bits(x, expected, "x");
    return x;
  });
  std::vector<float> a(3), b(4);
  CHECK_THROWS(engine::ops::residual_add({.x_TD = test::tensor(a, {3}), .y_TD = test::tensor(b, {4})}));
}
