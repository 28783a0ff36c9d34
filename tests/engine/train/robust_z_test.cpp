#include "engine/train/robust_z.h"

#include "tests/support/compare.h"

using engine::train::RobustZ;

TEST_CASE("robust_z: the hand-computed case, and none before there are enough values") {
  RobustZ z;
  for (int i = 1; i <= 16; ++i) CHECK_FALSE(z.add(i));
  // median 8.5; deviations 0.5 twice, 1.5 twice, ..., 7.5 twice: median 4
  const std::optional<double> score = z.add(20.36);
  REQUIRE(score);
  CHECK(*score == doctest::Approx((20.36 - 8.5) / (1.4826 * 4)));
}

TEST_CASE("robust_z: a spike stands out and does not hide the next one") {
  RobustZ z;
  for (int i = 0; i < 200; ++i) z.add(2.0 + 0.1 * static_cast<double>(test::value(3, i)));
  CHECK(std::abs(*z.add(2.05)) < 2);
  CHECK(*z.add(3.0) > 10);
  CHECK(*z.add(3.0) > 10);
  CHECK(*z.add(1.0) < -10);
}

TEST_CASE("robust_z: only the last values count, and a saved history goes on as if it had not been saved") {
  RobustZ z, resumed;
  for (int i = 0; i < 100; ++i) z.add(1e6 + i);
  for (size_t i = 0; i < RobustZ::kWindow; ++i) z.add(static_cast<double>(i % 7));
  std::vector<double> saved = z.history();
  CHECK(saved.size() == RobustZ::kWindow);
  CHECK(*std::max_element(saved.begin(), saved.end()) == 6);
  saved.insert(saved.begin(), 1e9);  // of a longer window
  resumed.set_history(saved);
  for (int i = 0; i < 20; ++i) CHECK(z.add(i * 0.3) == resumed.add(i * 0.3));
}

TEST_CASE("robust_z: values that are all the same say nothing") {
  RobustZ z;
  for (int i = 0; i < 40; ++i) CHECK_FALSE(z.add(5));
}
