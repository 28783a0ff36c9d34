#include "moe/permute.h"

#include "tests/support/compare.h"

namespace {

using namespace moe;
using test::tensor;

constexpr int64_t T = 4, K = 2, N = 7, D = 37;
const std::vector<int32_t> kRows{5, 2, 0, -1, 6, 1, 3, 4};  // of (t, k); one pair was dropped

}  // namespace

TEST_CASE("permute: copies or scales the rows it is told") {
  test::check_same_everywhere([] {
    auto x = test::values(1, T * D), scales = test::values(2, 4), y = test::poisoned(4 * D), copy = y;
    const std::vector<int32_t> rows{2, 0, -1, 2};
    permute({.y_ND = tensor(y, {4, D}), .x_TD = tensor(x, {T, D}), .rows = rows.data(), .scales = scales.data()});
    permute({.y_ND = tensor(copy, {4, D}), .x_TD = tensor(x, {T, D}), .rows = rows.data()});
    for (size_t n = 0; n < 4; ++n) {
      for (size_t d = 0; d < D; ++d) {
        const float value = rows[n] < 0 ? 0.0f : x[static_cast<size_t>(rows[n]) * D + d];
        REQUIRE(y[n * D + d] == scales[n] * value);
        REQUIRE(copy[n * D + d] == value);
      }
    }
    return y;
  });
}

TEST_CASE("permute: unpermute adds a token's rows in slot order, and its gradients are its adjoints") {
  auto x = test::values(1, N * D), weights = test::values(2, T * K), dy = test::values(3, T * D);
  const auto reference = [&](const std::vector<double>& rows, const std::vector<double>& w) {
    std::vector<double> y(T * D);
    for (size_t i = 0; i < T * K; ++i) {
      if (kRows[i] < 0) continue;
      for (size_t d = 0; d < D; ++d) y[i / K * D + d] += w[i] * rows[static_cast<size_t>(kRows[i]) * D + d];
    }
    return y;
  };
  test::check_same_everywhere([&] {
    auto y = test::poisoned(T * D), dweights = test::poisoned(T * K);
    unpermute({.y_TD = tensor(y, {T, D}),
               .x_ND = tensor(x, {N, D}),
               .rows_TK = kRows.data(),
               .weights_TK = weights.data(),
               .num_slots = K});
    const auto xd = test::to_double(x), wd = test::to_double(weights);
    test::check_close(y, reference(xd, wd), 1e-6, "y");
    unpermute_weights_backward({.dweights_TK = tensor(dweights, {T, K}),
                                .dy_TD = tensor(dy, {T, D}),
                                .x_ND = tensor(x, {N, D}),
                                .rows_TK = kRows.data()});
    test::check_close(dweights, test::finite_difference(wd, [&](auto& w) { return test::dot(reference(xd, w), dy); }),
                      1e-5, "dweights");
    auto plain = test::poisoned(T * D);
    unpermute({.y_TD = tensor(plain, {T, D}), .x_ND = tensor(x, {N, D}), .rows_TK = kRows.data(), .num_slots = K});
    test::check_close(plain, reference(xd, std::vector<double>(T * K, 1.0)), 1e-6, "plain sum");
    y.insert(y.end(), dweights.begin(), dweights.end());
    return y;
  });
}
