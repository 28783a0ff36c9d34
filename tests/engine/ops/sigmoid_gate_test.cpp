#include "engine/ops/sigmoid_gate.h"

#include "tests/support/compare.h"

namespace {

using namespace engine;
using test::tensor;

constexpr int64_t T = 5, D = 19;

std::vector<double> reference(const std::vector<double>& x, const std::vector<double>& logit) {
  std::vector<double> y;
  for (size_t i = 0; i < x.size(); ++i) y.push_back(x[i] / (1 + std::exp(-logit[i / D])));
  return y;
}

}  // namespace

TEST_CASE("sigmoid_gate: forward and backward equal reference and finite differences") {
  test::for_each_cpu_target([] {
    auto x = test::values(1, T * D), logit = test::values(2, T, 4), dy = test::values(3, T * D);
    auto y = test::poisoned(T * D), dx = test::poisoned(T * D), dlogit = test::poisoned(T);
    ops::sigmoid_gate_forward({.y_TD = tensor(y, {T, D}), .x_TD = tensor(x, {T, D}), .logit_T = tensor(logit, {T})});
    ops::sigmoid_gate_backward({.dx_TD = tensor(dx, {T, D}),
                                .dlogit_T = tensor(dlogit, {T}),
                                .dy_TD = tensor(dy, {T, D}),
                                .x_TD = tensor(x, {T, D}),
                                .logit_T = tensor(logit, {T})});
    const auto xd = test::to_double(x), ld = test::to_double(logit);
    test::check_close(y, reference(xd, ld), 1e-6, "y");
    test::check_close(dx, test::finite_difference(xd, [&](auto& v) { return test::dot(reference(v, ld), dy); }), 2e-6,
                      "dx");
    test::check_close(dlogit, test::finite_difference(ld, [&](auto& v) { return test::dot(reference(xd, v), dy); }),
                      2e-6, "dlogit");
  });
}
