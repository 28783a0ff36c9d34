#include "engine/ops/rope.h"

#include "engine/core/buffer.h"
#include "tests/support/compare.h"

namespace {

using namespace engine;
using test::tensor;

constexpr int64_t kHeads = 2, kHeadDim = 12, kWidth = kHeads * kHeadDim;
constexpr double kTheta = 10000;

struct Tables {
  explicit Tables(int64_t positions, int64_t pairs = kHeadDim / 2, double theta = kTheta)
      : cos(DType::f32, {positions, pairs}), sin(DType::f32, {positions, pairs}) {
    ops::rope_tables(cos, sin, theta);
  }
  OwnedTensor cos, sin;
};

void rotate(std::vector<float>& x, const std::vector<int32_t>& positions, bool interleave, bool inverse) {
  const Tables tables(64);
  ops::rope({.x_THC = tensor(x, {static_cast<int64_t>(positions.size()), kWidth}),
             .positions = positions.data(),
             .cos_PC = tables.cos,
             .sin_PC = tables.sin,
             .num_heads = kHeads,
             .head_dim = kHeadDim,
             .interleave = interleave,
             .inverse = inverse});
}

// Each pair turned by position * theta^(-2 i / C).
std::vector<double> reference(const std::vector<double>& x, const std::vector<int32_t>& positions, bool interleave) {
  std::vector<double> y = x;
  for (size_t t = 0; t < positions.size(); ++t) {
    for (size_t h = 0; h < kHeads; ++h) {
      for (size_t i = 0; i < kHeadDim / 2; ++i) {
        const size_t head = t * kWidth + h * kHeadDim;
        const size_t a = head + (interleave ? 2 * i : i), b = head + (interleave ? 2 * i + 1 : i + kHeadDim / 2);
        const double angle = positions[t] * std::pow(kTheta, -2.0 * static_cast<double>(i) / kHeadDim);
        y[a] = x[a] * std::cos(angle) - x[b] * std::sin(angle);
        y[b] = x[b] * std::cos(angle) + x[a] * std::sin(angle);
      }
    }
  }
  return y;
}

}  // namespace

TEST_CASE("rope: both layouts equal the reference, and the inverse is the gradient") {
  const std::vector<int32_t> positions{0, 1, 17, 63, 5};
  for (bool interleave : {false, true}) {
    test::for_each_cpu_target([&] {
      auto x = test::values(1, 5 * kWidth), dy = test::values(2, 5 * kWidth), y = x, dx = dy;
      rotate(y, positions, interleave, false);
      const auto xd = test::to_double(x);
      test::check_close(y, reference(xd, positions, interleave), 1e-5, "y");
      rotate(dx, positions, interleave, true);
      auto expected =
          test::finite_difference(xd, [&](auto& v) { return test::dot(reference(v, positions, interleave), dy); });
      test::check_close(dx, expected, 1e-5, "dx");
    });
  }
}

TEST_CASE("rope: tables are the sine and cosine of the fp32 angle up to a million positions") {
  const int64_t pairs = 64, positions = 1000;
  for (double theta : {10000.0, 1e6}) {
    const Tables tables(positions, pairs, theta);
    for (int64_t i = 0; i < pairs; ++i) {
      const float frequency = static_cast<float>(std::pow(theta, -static_cast<double>(i) / pairs));
      for (int64_t p : {int64_t{1}, int64_t{7}, positions - 1}) {
        const double angle = static_cast<double>(static_cast<float>(p) * frequency);
        const size_t at = static_cast<size_t>(p * pairs + i);
        CHECK(tables.cos.view.f32()[at] == doctest::Approx(std::cos(angle)).epsilon(1e-6));
        CHECK(tables.sin.view.f32()[at] == doctest::Approx(std::sin(angle)).epsilon(1e-6));
      }
    }
  }
}

TEST_CASE("rope: a position beyond the tables is refused") {
  std::vector<float> x(kWidth);
  CHECK_THROWS(rotate(x, {64}, false, false));
}
