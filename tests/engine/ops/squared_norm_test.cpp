#include "engine/ops/squared_norm.h"

#include "tests/support/compare.h"

TEST_CASE("squared_norm: block sums equal the reference and do not depend on where a shard is cut") {
  const int64_t N = 3 * 64 + 21, block = 64;
  auto x = test::values(1, N, 1e15f);
  test::for_each_cpu_target([&] {
    std::vector<double> sums(4, -1.0), part(2, -1.0);
    engine::ops::squared_norm({.block_sums = sums.data(), .x_N = test::tensor(x, {N}), .block = block});
    for (int64_t b = 0; b < 4; ++b) {
      double expected = 0;
      for (int64_t i = b * block; i < std::min(N, (b + 1) * block); ++i) {
        expected += static_cast<double>(x[static_cast<size_t>(i)]) * static_cast<double>(x[static_cast<size_t>(i)]);
      }
      CHECK(sums[static_cast<size_t>(b)] == doctest::Approx(expected).epsilon(1e-14));
    }
    engine::ops::squared_norm(
        {.block_sums = part.data(), .x_N = test::tensor(x, {N}).slice_rows(128, N - 128), .block = block});
    CHECK(part[0] == sums[2]);
    CHECK(part[1] == sums[3]);
  });
}

TEST_CASE("squared_norm: of exact sums it is the norm of the floats they are rounded to") {
  const int64_t N = 200, block = 64;
  std::vector<double> x;
  std::vector<float> rounded;
  for (int64_t i = 0; i < N; ++i) {
    x.push_back(static_cast<double>(test::value(1, i)) * (1 + 1e-9 * static_cast<double>(i)));
    rounded.push_back(static_cast<float>(x.back()));
  }
  test::for_each_cpu_target([&] {
    std::vector<double> of_sums(4, -1.0), of_floats(4, -1.0);
    engine::ops::squared_norm(
        {.block_sums = of_sums.data(), .x_N = {x.data(), engine::DType::f64, {N}}, .block = block});
    engine::ops::squared_norm({.block_sums = of_floats.data(), .x_N = test::tensor(rounded, {N}), .block = block});
    CHECK(of_sums == of_floats);
  });
}

TEST_CASE("squared_norm: what is not finite shows in the sum") {
  std::vector<float> x(100, 1.0f);
  x[77] = std::numeric_limits<float>::quiet_NaN();
  double sum = 0;
  engine::ops::squared_norm({.block_sums = &sum, .x_N = test::tensor(x, {100})});
  CHECK(std::isnan(sum));
}
