#include "moe/jitter.h"

#include "tests/support/compare.h"

namespace {

using namespace engine;

}  // namespace

TEST_CASE("jitter: a factor for every element of the step, whatever the pass") {
  const int64_t T = 40, D = 9;
  const std::vector<float> ones(static_cast<size_t>(T * D), 1.0f);
  const auto drawn = [&](int64_t begin, int64_t count, uint64_t key, uint64_t step) {
    std::vector<float> x = ones;
    moe::jitter({.x_TD = test::tensor(x, {T, D}).slice_rows(begin, count),
                 .key = key,
                 .step = step,
                 .first_row = begin,
                 .width = 0.25f});
    return x;
  };
  test::for_each_cpu_target([&] {
    const std::vector<float> factors = drawn(0, T, 3, 7);
    double sum = 0;
    for (size_t i = 0; i < factors.size(); ++i) {
      const Philox4 bits = philox(3, i / 4, 7);
      CHECK(factors[i] == 1.0f + 0.25f * (2.0f * uniform_from_bits(bits[i % 4]) - 1.0f));
      CHECK(std::fabs(factors[i] - 1.0f) <= 0.25f);
      sum += static_cast<double>(factors[i]);
    }
    CHECK(sum / static_cast<double>(factors.size()) == doctest::Approx(1).epsilon(0.03));
    const std::vector<float> part = drawn(13, 20, 3, 7);
    for (size_t i = 0; i < part.size(); ++i) {
      CHECK(part[i] == (i >= 13 * D && i < 33 * D ? factors[i] : 1.0f));
    }
    CHECK(drawn(0, T, 4, 7) != factors);
    CHECK(drawn(0, T, 3, 8) != factors);
  });
}
