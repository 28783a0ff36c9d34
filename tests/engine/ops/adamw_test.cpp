#include "engine/ops/adamw.h"

#include "tests/support/compare.h"

namespace {

using namespace engine;
using test::tensor;

struct State {
  std::vector<float> weight, m, v;
};

State step(State state, std::vector<float> gradient, int64_t number) {
  const int64_t N = static_cast<int64_t>(gradient.size());
  const ops::BiasCorrections corrections = ops::adamw_bias_corrections(0.9, 0.95, number);
  ops::adamw({.weight_N = tensor(state.weight, {N}),
              .m_N = tensor(state.m, {N}),
              .v_N = tensor(state.v, {N}),
              .gradient_N = tensor(gradient, {N}),
              .lr = 1e-2f,
              .beta1 = 0.9f,
              .beta2 = 0.95f,
              .eps = 1e-8f,
              .weight_decay = 0.1f,
              .clip = 0.5f,
              .bias_correction1 = static_cast<float>(corrections.first),
              .bias_correction2 = static_cast<float>(corrections.second)});
  return state;
}

}  // namespace

TEST_CASE("adamw: five steps equal PyTorch's formula in double precision") {
  const int64_t N = 21;
  State state{test::values(1, N), std::vector<float>(N), std::vector<float>(N)};
  auto w = test::to_double(state.weight);
  std::vector<double> m(N), v(N);
  for (int64_t number = 1; number <= 5; ++number) {
    auto gradient = test::values(static_cast<uint64_t>(10 + number), N);
    state = step(state, gradient, number);
    for (size_t i = 0; i < N; ++i) {
      const double g = 0.5 * static_cast<double>(gradient[i]);
      w[i] *= 1 - 1e-2 * 0.1;
      m[i] = 0.9 * m[i] + 0.1 * g;
      v[i] = 0.95 * v[i] + 0.05 * g * g;
      const double bias1 = 1 - std::pow(0.9, number), bias2 = 1 - std::pow(0.95, number);
      w[i] -= 1e-2 / bias1 * m[i] / (std::sqrt(v[i]) / std::sqrt(bias2) + 1e-8);
    }
    test::check_close(state.weight, w, 1e-6, "weight");
  }
  test::check_close(state.m, m, 1e-6, "m");
  test::check_close(state.v, v, 1e-6, "v");
}

TEST_CASE("adamw: exact sums are rounded as they are read, and every gradient is zero afterwards") {
  const int64_t N = 16384 + 21;
  test::for_each_cpu_target([&] {
    std::vector<double> sums;
    std::vector<float> rounded;
    for (int64_t i = 0; i < N; ++i) {
      sums.push_back(static_cast<double>(test::value(3, i)) * (1 + 1e-9 * static_cast<double>(i)));
      rounded.push_back(static_cast<float>(sums.back()));
    }
    const std::vector<float> m = test::values(2, N), v(static_cast<size_t>(N), 0.25f);
    State of_sums{test::values(1, N), m, v}, of_floats = of_sums;
    const auto update = [&](State& state, const Tensor& gradient_N) {
      ops::adamw({.weight_N = tensor(state.weight, {N}),
                  .m_N = tensor(state.m, {N}),
                  .v_N = tensor(state.v, {N}),
                  .gradient_N = gradient_N,
                  .lr = 1e-2f});
    };
    update(of_sums, Tensor(sums.data(), DType::f64, {N}));
    update(of_floats, tensor(rounded, {N}));
    test::check_same_bits(of_sums.weight, of_floats.weight, "weight");
    test::check_same_bits(of_sums.m, of_floats.m, "m");
    test::check_same_bits(of_sums.v, of_floats.v, "v");
    CHECK(sums == std::vector<double>(sums.size(), 0.0));
    CHECK(rounded == std::vector<float>(rounded.size(), 0.0f));
  });
}

TEST_CASE("adamw: bias corrections do not need the library's pow") {
  const ops::BiasCorrections corrections = ops::adamw_bias_corrections(0.9, 0.999, 1000);
  CHECK(corrections.first == doctest::Approx(1 - std::pow(0.9, 1000)));
  CHECK(corrections.second == doctest::Approx(1 - std::pow(0.999, 1000)).epsilon(1e-12));
}

TEST_CASE("adamw: the same bits on any thread and instruction set") {
  const int64_t N = 40003;
  test::check_same_everywhere([&] {
    return step({test::values(1, N), test::values(2, N), std::vector<float>(N, 0.25f)}, test::values(3, N), 3).weight;
  });
}

TEST_CASE("adamw: one changed weight marks its block, wherever it is, and none marks none") {
  using Marks = std::vector<uint32_t>;
  const int64_t N = 8 * ops::kChangedBlock + 21;  // the last block has whole vectors and a tail
  std::vector<float> weight = test::values(1, N), m(N), v(N), gradient(N);
  const auto changed = [&](uint32_t before) {
    Marks marks(9, before);
    ops::adamw({.weight_N = tensor(weight, {N}),
                .m_N = tensor(m, {N}),
                .v_N = tensor(v, {N}),
                .gradient_N = tensor(gradient, {N}),
                .lr = 1e-2f,
                .bias_correction1 = 0.1f,
                .bias_correction2 = 0.05f,
                .changed = marks.data()});
    return marks;
  };
  CHECK(changed(0) == Marks(9, 0));  // no gradient, no weight decay
  CHECK(changed(1) == Marks(9, 1));  // what was changed before stays so
  for (int64_t i : {int64_t{0}, int64_t{15}, int64_t{4095}, int64_t{4096}, int64_t{16390}, N - 6, N - 1}) {
    CAPTURE(i);
    const size_t place = static_cast<size_t>(i);
    Marks expected(9, 0);
    expected[place / ops::kChangedBlock] = 1;
    gradient[place] = 1;
    CHECK(changed(0) == expected);
    m[place] = v[place] = 0;
    CHECK(changed(0) == Marks(9, 0));
  }
}
