#include "engine/ops/read_rate.h"

#include <vector>

#include "tests/support/compare.h"

namespace {

float read_all(const float* x, int64_t count) {
  using namespace engine::ops;
  DISPATCH_CPU(read_all, x, count);
}

}  // namespace

TEST_CASE("read_rate: every number is read once") {
  test::for_each_cpu_target([] {
    std::vector<float> x(256);
    for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i);
    CHECK(read_all(x.data(), 64) == 63 * 64 / 2);
    CHECK(read_all(x.data(), 256) == 255 * 256 / 2);
    CHECK(read_all(x.data(), 0) == 0);
  });
}

TEST_CASE("read_rate: measures something") {
  CHECK(engine::ops::measure_read_bytes_per_second() > 1e6);
}
