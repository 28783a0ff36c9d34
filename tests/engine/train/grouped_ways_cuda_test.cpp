// Each way of the experts' products timed on a device.
#include "engine/train/grouped_ways.h"

#include <algorithm>

#include "tests/support/device.h"
#include "tests/support/mixed_config.h"

using engine::ops::GroupedWay;
using engine::train::GroupedWays;

TEST_CASE("cuda: grouped products are timed in every way that takes their types, and the fastest is named") {
  test::for_each_storage([](test::DType storage) {
#if defined(SWITCHYARD_EMULATED)
    if (emulation::checks_accesses() && storage == test::DType::f32) {
      MESSAGE("skipped in f32 where every access is checked, for time: bf16 runs the same");
      return;
    }
#endif
    const engine::Config config = test::mixed_config();
    const bool narrow = storage == test::DType::bf16;
    const GroupedWays ways =
        engine::train::time_grouped_ways(config, {.device = test::Device::cuda, .element_bytes = narrow ? 2 : 4}, 0.01);
    CHECK(ways.experts == config.model.num_experts);
    CHECK(ways.rows % ways.experts == 0);
    REQUIRE(ways.products.size() == 6);
    for (const GroupedWays::Product& product : ways.products) {
      INFO(product.name);
      CHECK(product.flops ==
            2.0 * static_cast<double>(ways.rows * config.model.hidden_size * config.model.moe_intermediate_size));
      REQUIRE(product.times.size() == 3);
      const auto fastest = std::find_if(product.times.begin(), product.times.end(),
                                        [&](const GroupedWays::Time& time) { return time.way == product.fastest(); });
      const bool is_weight_gradient = product.name.find("weight gradient") != std::string::npos;
      for (const auto& [way, seconds] : product.times) {
        CHECK(seconds.has_value() == !(narrow && is_weight_gradient && way == GroupedWay::batched));
        if (seconds) CHECK(*seconds > 0);
        if (seconds) CHECK(*fastest->seconds <= *seconds);
      }
    }
  });
}

TEST_CASE("cuda: a model without experts has no grouped products") {
  engine::Config config = test::mixed_config();
  config.model.first_k_dense_replace = config.model.num_hidden_layers;
  CHECK(engine::train::time_grouped_ways(config, {.device = test::Device::cuda}, 0.01).products.empty());
}
