#include "engine/ops/rope.h"

#include <cmath>

namespace engine::ops {
namespace {

// sin and cos of 0 <= x < 2^24 in double, by +, -, * alone: the library's differ between machines in the last bit.
// pi / 2 in three parts of 33 bits (fdlibm's __ieee754_rem_pio2), then Taylor series on [-pi/4, pi/4].
struct SinCos {
  double sin, cos;
};
SinCos sin_cos(double x) {
  const double n = std::nearbyint(x * 0.63661977236758134308);
  double r = ((x - n * 1.57079632673412561417) - n * 6.07710050630396597660e-11) - n * 2.02226624879595063154e-21;
  const double z = r * r;
  double s = 0, c = 0;
  for (int k = 9; k >= 1; --k) {
    s = -z / ((2 * k) * (2 * k + 1)) * (1 + s);
    c = -z / ((2 * k - 1) * (2 * k)) * (1 + c);
  }
  const double sin = r * (1 + s), cos = 1 + c;
  switch (static_cast<int64_t>(n) & 3) {
    case 0:
      return {sin, cos};
    case 1:
      return {cos, -sin};
    case 2:
      return {-sin, -cos};
    default:
      return {-cos, sin};
  }
}

// base^(1/count), base >= 1, by bisection until no double lies between.
double root(double base, int64_t count) {
  double low = 1, high = base;
  while (true) {
    const double middle = low + (high - low) / 2;
    if (middle <= low || middle >= high) return low;
    double power = 1;
    for (int64_t k = 0; k < count && power <= base; ++k) power *= middle;
    (power <= base ? low : high) = middle;
  }
}

}  // namespace

void rope_tables(Tensor cos_PC, Tensor sin_PC, double theta) {
  const int64_t pairs = cos_PC.columns();
  ENSURE(theta >= 1, "rope_theta is ", theta, " but must be at least 1");
  const double ratio = 1 / root(theta, pairs);  // theta^(-2/C)
  double exact = 1;
  for (int64_t i = 0; i < pairs; ++i, exact *= ratio) {
    const float frequency = static_cast<float>(exact);
    for (int64_t p = 0; p < cos_PC.rows(); ++p) {
      const float angle = static_cast<float>(p) * frequency;
      const SinCos value = sin_cos(static_cast<double>(angle));
      cos_PC.f32()[p * pairs + i] = static_cast<float>(value.cos);
      sin_PC.f32()[p * pairs + i] = static_cast<float>(value.sin);
    }
  }
}

void rope(const Rope& a) {
  ENSURE(a.x_THC.columns() == a.num_heads * a.head_dim, "rows have ", a.x_THC.columns(), " columns, not ", a.num_heads,
         " heads of ", a.head_dim);
  ENSURE(a.head_dim % 2 == 0 && a.cos_PC.columns() == a.head_dim / 2, "tables have ", a.cos_PC.columns(),
         " columns for heads of ", a.head_dim);
  for (int64_t t = 0; a.x_THC.device == Device::cpu && t < a.x_THC.rows(); ++t) {
    ENSURE(a.positions[t] >= 0 && a.positions[t] < a.cos_PC.rows(), "position ", a.positions[t],
           " is beyond the longest sequence of ", a.cos_PC.rows());
  }
  DISPATCH(a.x_THC.device, rope, a);
}

}  // namespace engine::ops
