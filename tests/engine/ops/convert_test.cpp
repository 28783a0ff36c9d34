#include "engine/ops/convert.h"

#include "tests/support/compare.h"

namespace {

using namespace engine;

// The bf16 nearest to x, of two equally near ones the even: by comparing neighbours in double precision.
uint16_t nearest_bf16(float x) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, x) & 0xffff0000u;
  const auto distance = [&](uint32_t b) {
    return std::fabs(static_cast<double>(__builtin_bit_cast(float, b)) - static_cast<double>(x));
  };
  const uint32_t next = bits + 0x10000u;  // away from zero
  const double near = distance(bits), far = distance(next);
  const bool up = far < near || (far == near && ((next >> 16) & 1u) == 0);
  return static_cast<uint16_t>((up ? next : bits) >> 16);
}

}  // namespace

TEST_CASE("convert: f32 to bf16 rounds to nearest even, and back changes nothing") {
  std::vector<float> x = test::values(1, 40001, 3.0f);
  for (uint32_t tie : {0x3f808000u, 0x3f818000u, 0xbf808000u, 0x00018000u}) {
    x.push_back(__builtin_bit_cast(float, tie));
  }
  const int64_t count = static_cast<int64_t>(x.size());
  test::for_each_cpu_target([&] {
    std::vector<uint16_t> narrow(x.size(), 0xffff);
    const Tensor narrow_N(narrow.data(), DType::bf16, {count});
    ops::convert({.y_TD = narrow_N, .x_TD = test::tensor(x, {count})});
    for (size_t i = 0; i < x.size(); ++i) CHECK(narrow[i] == nearest_bf16(x[i]));
    std::vector<float> wide = test::poisoned(count), copy = wide;
    ops::convert({.y_TD = test::tensor(wide, {count}), .x_TD = narrow_N});
    for (size_t i = 0; i < x.size(); ++i) {
      CHECK(__builtin_bit_cast(uint32_t, wide[i]) == static_cast<uint32_t>(narrow[i]) << 16);
    }
    ops::convert({.y_TD = test::tensor(copy, {count}), .x_TD = test::tensor(x, {count})});
    test::check_same_bits(copy, x, "f32 to f32");
  });
  const float nan = std::numeric_limits<float>::quiet_NaN(), infinite = std::numeric_limits<float>::infinity();
  std::vector<float> special = {nan, infinite, -infinite};
  std::vector<uint16_t> narrow(3);
  ops::convert({.y_TD = Tensor(narrow.data(), DType::bf16, {3}), .x_TD = test::tensor(special, {3})});
  CHECK((narrow[0] & 0x7fff) > 0x7f80);
  CHECK(narrow[1] == 0x7f80);
  CHECK(narrow[2] == 0xff80);
  CHECK_THROWS(ops::convert({.y_TD = Tensor(narrow.data(), DType::bf16, {2}), .x_TD = test::tensor(special, {3})}));
}
