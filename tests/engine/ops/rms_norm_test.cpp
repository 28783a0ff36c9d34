#include "engine/ops/rms_norm.h"

#include "engine/core/thread_pool.h"
#include "tests/support/compare.h"

namespace {

using namespace engine;
using test::tensor;

constexpr double kEps = 1e-5;

// y[t,d] = x[t,d] * weight[d] / sqrt(mean(x[t]^2) + eps)
std::vector<double> reference(const std::vector<double>& x, const std::vector<double>& weight) {
  const size_t D = weight.size(), T = x.size() / D;
  std::vector<double> y(x.size());
  for (size_t t = 0; t < T; ++t) {
    double squares = 0;
    for (size_t d = 0; d < D; ++d) squares += x[t * D + d] * x[t * D + d];
    double rstd = 1 / std::sqrt(squares / static_cast<double>(D) + kEps);
    for (size_t d = 0; d < D; ++d) y[t * D + d] = x[t * D + d] * rstd * weight[d];
  }
  return y;
}

double dot(const std::vector<double>& a, const std::vector<float>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * static_cast<double>(b[i]);
  return sum;
}

struct Case {
  int64_t T, D;
};
const Case kCases[] = {{1, 1}, {1, 16}, {3, 7}, {5, 33}, {17, 48}};

struct Forward {
  std::vector<float> y, rstd;
};
Forward forward(const std::vector<float>& x, const std::vector<float>& weight, int64_t T, int64_t D) {
  Forward out{test::poisoned(T * D), test::poisoned(T)};
  ops::rms_norm_forward({.y_TD = tensor(out.y, {T, D}),
                         .rstd_T = tensor(out.rstd, {T}),
                         .x_TD = tensor(x, {T, D}),
                         .weight_D = tensor(weight, {D}),
                         .eps = static_cast<float>(kEps)});
  return out;
}

}  // namespace

TEST_CASE("rms_norm: forward equals the reference") {
  test::for_each_cpu_target([] {
    for (auto [T, D] : kCases) {
      auto x = test::values(1, T * D), weight = test::values(2, D);
      test::check_close(forward(x, weight, T, D).y, reference(test::to_double(x), test::to_double(weight)), 1e-6, "y");
    }
  });
}

TEST_CASE("rms_norm: backward equals finite differences and adds") {
  test::for_each_cpu_target([] {
    for (auto [T, D] : kCases) {
      auto x = test::values(1, T * D), weight = test::values(2, D), dy = test::values(3, T * D);
      auto dx_before = test::values(4, T * D);
      Forward out = forward(x, weight, T, D);
      auto dx = dx_before;
      test::ChainGradient dweight({D});
      test::Granules granules({T});
      ops::rms_norm_backward({.dx_TD = tensor(dx, {T, D}),
                              .dweight_D = dweight.gradient(),
                              .dy_TD = tensor(dy, {T, D}),
                              .x_TD = tensor(x, {T, D}),
                              .weight_D = tensor(weight, {D}),
                              .rstd_T = tensor(out.rstd, {T}),
                              .granules = granules.rows});
      auto w = test::to_double(weight);
      auto dx_expected = test::finite_difference(test::to_double(x), [&](auto& v) { return dot(reference(v, w), dy); });
      for (size_t i = 0; i < dx_expected.size(); ++i) dx_expected[i] += static_cast<double>(dx_before[i]);
      test::check_close(dx, dx_expected, 2e-6, "dx");
      auto xd = test::to_double(x);
      auto dw_expected = test::finite_difference(w, [&](auto& v) { return dot(reference(xd, v), dy); });
      test::check_close(dweight.data, dw_expected, 2e-6, "dweight");
    }
  });
}

TEST_CASE("rms_norm: the gradient of a granule does not depend on passes, threads or instruction set") {
  const int64_t T = 24, D = 37;
  auto x = test::values(1, T * D), weight = test::values(2, D), dy = test::values(3, T * D);
  std::vector<double> expected;
  for (int threads : {1, 3}) {
    ThreadPool pool(threads);
    pool.make_current();
    test::for_each_cpu_target([&] {
      Forward out = forward(x, weight, T, D);
      for (int64_t parts : {1, 2, 4}) {  // passes that hold two granules, one, half of one
        test::ExactGradient dweight({D}, 64);
        auto dx = test::poisoned(T * D);
        const int64_t rows = T / parts;
        for (int64_t begin = 0; begin < T; begin += rows) {
          test::Granules granules(parts == 1 ? std::vector<int64_t>{12, 12} : std::vector<int64_t>{rows},
                                  (begin + rows) % 12 == 0);
          auto slice = [&](const std::vector<float>& v) { return tensor(v, {T, D}).slice_rows(begin, rows); };
          ops::rms_norm_backward({.dx_TD = tensor(dx, {T, D}).slice_rows(begin, rows),
                                  .dweight_D = dweight.gradient(),
                                  .dy_TD = slice(dy),
                                  .x_TD = slice(x),
                                  .weight_D = tensor(weight, {D}),
                                  .rstd_T = tensor(out.rstd, {T}).slice_rows(begin, rows),
                                  .granules = granules.rows,
                                  .assign = true});
        }
        if (expected.empty()) expected = dweight.sum;
        CHECK(std::memcmp(dweight.sum.data(), expected.data(), expected.size() * sizeof(double)) == 0);
        for (float c : dweight.chain.data) CHECK(c == 0.0f);
      }
    });
  }
}

TEST_CASE("rms_norm: shapes that do not fit are refused") {
  std::vector<float> x(12), y(12), rstd(3), weight(5);
  CHECK_THROWS_AS(ops::rms_norm_forward({.y_TD = tensor(y, {3, 4}),
                                         .rstd_T = tensor(rstd, {3}),
                                         .x_TD = tensor(x, {3, 4}),
                                         .weight_D = tensor(weight, {5})}),
                  Error);
}
