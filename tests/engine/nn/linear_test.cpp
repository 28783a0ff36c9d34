#include "engine/nn/linear.h"

#include "tests/support/compare.h"

namespace {

using namespace engine;
using test::tensor;

constexpr int64_t T = 5, D = 19, N = 35;

struct Fixture {
  explicit Fixture(bool bias) : linear(store, {.name = "a.b_proj.weight", .dims = {N, D}, .deviation = 0.5}, bias) {
    store.commit(1, true);
    store.initialize(3);
    if (bias) copy(test::values(4, N), store.find("a.b_proj.bias")->weight);
    store.weights_changed();
  }
  static void copy(const std::vector<float>& from, Tensor to) { std::copy(from.begin(), from.end(), to.f32()); }
  static std::vector<float> read(ConstTensor t) { return {t.f32(), t.f32() + t.num_elements()}; }
  std::vector<float> weight() { return read(store.find("a.b_proj.weight")->weight); }
  std::vector<float> forward(const std::vector<float>& x) {
    std::vector<float> y = test::poisoned(T * N);
    linear.forward(tensor(x, {T, D}), tensor(y, {T, N}));
    return y;
  }

  nn::ParameterStore store;
  nn::Linear linear;
};

std::vector<double> reference(const std::vector<float>& x, const std::vector<float>& weight,
                              const std::vector<float>& bias) {
  std::vector<double> y;
  for (size_t t = 0; t < T; ++t) {
    for (size_t n = 0; n < N; ++n) {
      double sum = bias.empty() ? 0 : static_cast<double>(bias[n]);
      for (size_t d = 0; d < D; ++d) {
        sum += static_cast<double>(x[t * D + d]) * static_cast<double>(weight[n * D + d]);
      }
      y.push_back(sum);
    }
  }
  return y;
}

}  // namespace

TEST_CASE("linear: forward is the product with the weight, plus the bias where there is one") {
  const auto x = test::values(1, T * D);
  Fixture plain(false), biased(true);
  CHECK(plain.store.find("a.b_proj.bias") == nullptr);
  test::check_close(plain.forward(x), reference(x, plain.weight(), {}), 1e-6, "without bias");
  test::check_close(biased.forward(x), reference(x, biased.weight(), test::values(4, N)), 1e-6, "with bias");
}

TEST_CASE("linear: forward uses the weight as it is since the store last said that it changed") {
  Fixture f(false);
  const auto x = test::values(1, T * D), before = f.forward(x);
  Fixture::copy(test::values(9, N * D), f.store.find("a.b_proj.weight")->weight);
  f.store.weights_changed();
  const auto after = f.forward(x);
  test::check_close(after, reference(x, test::values(9, N * D), {}), 1e-6, "y after the change");
  CHECK(after != before);
}

TEST_CASE("linear: the bias begins at zero and does not decay, the weight does") {
  nn::ParameterStore store;
  nn::Linear linear(store, {.name = "a.b_proj.weight", .dims = {N, D}, .layer = 2}, true);
  store.commit(1, false);
  store.initialize(3);
  const nn::Parameter* bias = store.find("a.b_proj.bias");
  REQUIRE(bias != nullptr);
  CHECK(bias->spec.dims == std::vector<int64_t>{N});
  CHECK_FALSE(bias->spec.decays);
  CHECK(bias->spec.layer == 2);
  CHECK(Fixture::read(bias->weight) == std::vector<float>(N, 0.0f));
  CHECK(store.find("a.b_proj.weight")->spec.decays);
  CHECK(linear.outputs() == N);
}

TEST_CASE("linear: backward gives the gradients of input, weight and bias") {
  Fixture f(true);
  const auto x = test::values(1, T * D), dy = test::values(2, T * N), weight = f.weight();
  auto dx = test::poisoned(T * D);
  f.linear.backward_input(tensor(dy, {T, N}), tensor(dx, {T, D}), false);
  std::vector<double> dx_expected(T * D), dweight(N * D), dbias(N);
  for (size_t t = 0; t < T; ++t) {
    for (size_t n = 0; n < N; ++n) {
      const double g = static_cast<double>(dy[t * N + n]);
      dbias[n] += g;
      for (size_t d = 0; d < D; ++d) {
        dx_expected[t * D + d] += g * static_cast<double>(weight[n * D + d]);
        dweight[n * D + d] += g * static_cast<double>(x[t * D + d]);
      }
    }
  }
  test::check_close(dx, dx_expected, 1e-6, "dx");
  f.linear.backward_input(tensor(dy, {T, N}), tensor(dx, {T, D}), true);
  for (double& g : dx_expected) g *= 2;
  test::check_close(dx, dx_expected, 1e-6, "dx added to dx");
  for (int64_t begin = 0; begin < T; begin += 3) {  // a granule in two passes
    const int64_t rows = std::min<int64_t>(3, T - begin);
    test::Granules granules({rows}, begin + rows == T);
    f.linear.backward_weight(tensor(x, {T, D}).slice_rows(begin, rows), tensor(dy, {T, N}).slice_rows(begin, rows),
                             granules.rows);
  }
  test::check_close(Fixture::read(f.store.find("a.b_proj.weight")->gradient.chain), dweight, 1e-6, "dweight");
  test::check_close(Fixture::read(f.store.find("a.b_proj.bias")->gradient.chain), dbias, 1e-6, "dbias");
}
