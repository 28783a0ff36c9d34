#include "engine/ops/swiglu.h"

#include "tests/support/compare.h"

namespace {

using namespace engine;
using test::tensor;

double silu(double x) {
  return x / (1 + std::exp(-x));
}

std::vector<double> reference(const std::vector<double>& gate, const std::vector<double>& up) {
  std::vector<double> y;
  for (size_t i = 0; i < gate.size(); ++i) y.push_back(silu(gate[i]) * up[i]);
  return y;
}

}  // namespace

TEST_CASE("swiglu: forward and backward equal reference and finite differences, also in place") {
  for (int64_t R : {1, 3, 40}) {
    const int64_t F = 13;
    auto gate = test::values(1, R * F, 4), up = test::values(2, R * F), dy = test::values(3, R * F);
    auto y = test::poisoned(R * F);
    ops::swiglu_forward({.y_RF = tensor(y, {R, F}), .gate_RF = tensor(gate, {R, F}), .up_RF = tensor(up, {R, F})});
    const auto g = test::to_double(gate), u = test::to_double(up);
    test::check_close(y, reference(g, u), 1e-6, "y");
    auto dgate = gate, dup = up;  // the gradients take the place of their inputs
    ops::swiglu_backward({.dgate_RF = tensor(dgate, {R, F}),
                          .dup_RF = tensor(dup, {R, F}),
                          .dy_RF = tensor(dy, {R, F}),
                          .gate_RF = tensor(dgate, {R, F}),
                          .up_RF = tensor(dup, {R, F})});
    auto by_gate = test::finite_difference(g, [&](auto& x) { return test::dot(reference(x, u), dy); });
    auto by_up = test::finite_difference(u, [&](auto& x) { return test::dot(reference(g, x), dy); });
    test::check_close(dgate, by_gate, 2e-6, "dgate");
    test::check_close(dup, by_up, 2e-6, "dup");
  }
}

TEST_CASE("swiglu: the same bits on any thread and instruction set") {
  auto gate = test::values(1, 9001, 6), up = test::values(2, 9001);
  test::check_same_everywhere([&] {
    auto y = test::poisoned(9001);
    ops::swiglu_forward({.y_RF = tensor(y, {9001}), .gate_RF = tensor(gate, {9001}), .up_RF = tensor(up, {9001})});
    return y;
  });
}
