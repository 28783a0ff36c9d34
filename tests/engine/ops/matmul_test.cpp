#include "engine/ops/matmul.h"

#include "engine/core/thread_pool.h"
#include "tests/support/packed.h"

namespace {

using namespace engine;
using test::tensor;

struct Case {
  int64_t T, N, D;
};
// one row, one column, sizes around the tile, the vector and the block of the summed index, rows 4 KiB apart
const Case kCases[] = {{1, 1, 1},     {1, 33, 5}, {13, 1, 7},    {12, 32, 16},  {13, 33, 17},
                       {25, 40, 530}, {0, 8, 8},  {530, 19, 21}, {14, 5, 1024}, {14, 1024, 5}};

std::vector<float> forward(const std::vector<float>& x, const std::vector<float>& weight,
                           const std::vector<float>& bias, Case c) {
  auto y = test::poisoned(c.T * c.N);
  const auto panels = test::packed(weight, c.N, c.D);
  ops::matmul_forward({.y_TN = tensor(y, {c.T, c.N}),
                       .x_TD = tensor(x, {c.T, c.D}),
                       .packed_weight = test::flat(panels),
                       .bias_N = bias.empty() ? ConstTensor() : tensor(bias, {c.N})});
  return y;
}

// out[i,j] = start[i,j] + sum_k a(i,k) * b(k,j) in double
template <class A, class B>
std::vector<double> product(int64_t rows, int64_t columns, int64_t K, A a, B b) {
  std::vector<double> out(static_cast<size_t>(rows * columns));
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) {
      double sum = 0;
      for (int64_t k = 0; k < K; ++k) sum += static_cast<double>(a(i, k)) * static_cast<double>(b(k, j));
      out[static_cast<size_t>(i * columns + j)] = sum;
    }
  }
  return out;
}

std::vector<double> plus(std::vector<double> a, const std::vector<float>& b) {
  for (size_t i = 0; i < a.size(); ++i) a[i] += static_cast<double>(b[i % b.size()]);
  return a;
}

}  // namespace

TEST_CASE("matmul: all three products equal the reference") {
  test::for_each_cpu_target([] {
    for (Case c : kCases) {
      INFO("T ", c.T, " N ", c.N, " D ", c.D);
      auto x = test::values(1, c.T * c.D), weight = test::values(2, c.N * c.D), dy = test::values(3, c.T * c.N);
      auto bias = test::values(4, c.N), before = test::values(5, c.T * c.D);
      auto at = [](const std::vector<float>& m, int64_t i) { return m[static_cast<size_t>(i)]; };
      auto y_expected = product(
          c.T, c.N, c.D, [&](auto t, auto d) { return at(x, t * c.D + d); },
          [&](auto d, auto n) { return at(weight, n * c.D + d); });
      test::check_close(forward(x, weight, {}, c), y_expected, 1e-5, "y");
      test::check_close(forward(x, weight, bias, c), plus(y_expected, bias), 1e-5, "y with bias");

      auto dx_expected = product(
          c.T, c.D, c.N, [&](auto t, auto n) { return at(dy, t * c.N + n); },
          [&](auto n, auto d) { return at(weight, n * c.D + d); });
      for (bool accumulate : {false, true}) {
        auto dx = accumulate ? before : test::poisoned(c.T * c.D);
        ops::matmul_backward_input({.dx_TD = tensor(dx, {c.T, c.D}),
                                    .dy_TN = tensor(dy, {c.T, c.N}),
                                    .weight_ND = tensor(weight, {c.N, c.D}),
                                    .accumulate = accumulate});
        test::check_close(dx, accumulate && c.T > 0 ? plus(dx_expected, before) : dx_expected, 1e-5, "dx");
      }

      auto dw_expected = product(
          c.N, c.D, c.T, [&](auto n, auto t) { return at(dy, t * c.N + n); },
          [&](auto t, auto d) { return at(x, t * c.D + d); });
      test::ChainGradient dweight({c.N, c.D}), dbias({c.N});
      dweight.data = test::values(6, c.N * c.D);
      const auto chain_before = dweight.data;
      test::ChainGradient kept({c.N, c.D});
      kept.data = chain_before;
      test::Granules granules({c.T});
      WeightGradient gradient = dweight.gradient();
      gradient.chain.data = dweight.data.data();
      ops::matmul_backward_weight({.dweight_ND = gradient,
                                   .x_TD = tensor(x, {c.T, c.D}),
                                   .dy_TN = tensor(dy, {c.T, c.N}),
                                   .granules = granules.rows});
      test::check_close(dweight.data, plus(dw_expected, chain_before), 1e-5, "dweight");
      ops::bias_backward({.dbias_N = dbias.gradient(), .dy_TN = tensor(dy, {c.T, c.N}), .granules = granules.rows});
      auto db_expected = product(
          c.N, 1, c.T, [&](auto n, auto t) { return at(dy, t * c.N + n); }, [](auto, auto) { return 1.0f; });
      test::check_close(dbias.data, db_expected, 1e-5, "dbias");
    }
  });
}

TEST_CASE("matmul: a row's bits depend neither on the other rows nor on threads nor on the instruction set") {
  const Case c{37, 45, 600};
  auto x = test::values(1, c.T * c.D), weight = test::values(2, c.N * c.D), dy = test::values(3, c.T * c.N);
  std::vector<float> y_expected, dx_expected;
  for (int threads : {1, 3}) {
    ThreadPool pool(threads);
    pool.make_current();
    test::for_each_cpu_target([&] {
      auto y = forward(x, weight, {}, c);
      auto dx = test::poisoned(c.T * c.D);
      auto backward = [&](int64_t begin, int64_t rows, std::vector<float>& out) {
        ops::matmul_backward_input({.dx_TD = tensor(out, {rows, c.D}),
                                    .dy_TN = tensor(dy, {c.T, c.N}).slice_rows(begin, rows),
                                    .weight_ND = tensor(weight, {c.N, c.D})});
      };
      backward(0, c.T, dx);
      if (y_expected.empty()) y_expected = y, dx_expected = dx;
      test::check_same_bits(y, y_expected, "y");
      test::check_same_bits(dx, dx_expected, "dx");
      for (int64_t t : {int64_t{0}, int64_t{17}, c.T - 1}) {
        std::vector<float> row(x.begin() + t * c.D, x.begin() + (t + 1) * c.D);
        auto alone = forward(row, weight, {}, {1, c.N, c.D});
        test::check_same_bits(alone, {y.begin() + t * c.N, y.begin() + (t + 1) * c.N}, "y of one row");
        auto dx_alone = test::poisoned(c.D);
        backward(t, 1, dx_alone);
        test::check_same_bits(dx_alone, {dx.begin() + t * c.D, dx.begin() + (t + 1) * c.D}, "dx of one row");
      }
    });
  }
}

TEST_CASE("matmul: the exact weight gradient does not depend on passes, threads or instruction set") {
  const Case c{48, 21, 35};
  auto x = test::values(1, c.T * c.D), dy = test::values(3, c.T * c.N);
  std::vector<double> expected;
  auto reference = product(
      c.N, c.D, c.T, [&](auto n, auto t) { return dy[static_cast<size_t>(t * c.N + n)]; },
      [&](auto t, auto d) { return x[static_cast<size_t>(t * c.D + d)]; });
  for (int threads : {1, 3}) {
    ThreadPool pool(threads);
    pool.make_current();
    test::for_each_cpu_target([&] {
      for (int64_t parts : {1, 2, 6}) {  // passes that hold two granules, one, a third of one
        test::ExactGradient dweight({c.N, c.D}, 64);
        const int64_t rows = c.T / parts;
        for (int64_t begin = 0; begin < c.T; begin += rows) {
          test::Granules granules(parts == 1 ? std::vector<int64_t>{24, 24} : std::vector<int64_t>{rows},
                                  (begin + rows) % 24 == 0);
          ops::matmul_backward_weight({.dweight_ND = dweight.gradient(),
                                       .x_TD = tensor(x, {c.T, c.D}).slice_rows(begin, rows),
                                       .dy_TN = tensor(dy, {c.T, c.N}).slice_rows(begin, rows),
                                       .granules = granules.rows});
        }
        if (expected.empty()) expected = dweight.sum;
        CHECK(std::memcmp(dweight.sum.data(), expected.data(), expected.size() * sizeof(double)) == 0);
        test::check_close(std::vector<float>(dweight.sum.begin(), dweight.sum.end()), reference, 1e-6, "sum");
        CHECK(dweight.chain.max_bits > 0);
      }
    });
  }
}

TEST_CASE("matmul: without a sum the weight gradient of several granules is one chain") {
  const int64_t T = 9, N = 5, D = 7;
  const auto x = test::values(1, T * D), dy = test::values(2, T * N);
  test::ChainGradient whole({N, D}), parts({N, D});
  const test::Granules one({T}), two({4, 5});
  ops::matmul_backward_weight(
      {.dweight_ND = whole.gradient(), .x_TD = tensor(x, {T, D}), .dy_TN = tensor(dy, {T, N}), .granules = one.rows});
  ops::matmul_backward_weight(
      {.dweight_ND = parts.gradient(), .x_TD = tensor(x, {T, D}), .dy_TN = tensor(dy, {T, N}), .granules = two.rows});
  test::check_same_bits(parts.data, whole.data, "dweight");
}
