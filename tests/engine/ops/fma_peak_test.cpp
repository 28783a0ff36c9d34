#include "engine/ops/fma_peak.h"

#include "tests/support/compare.h"

TEST_CASE("fma_peak: counts what it does and measures something") {
  test::for_each_cpu_target([] { CHECK(engine::ops::measure_fma_peak_gflops() > 0.01); });
}
