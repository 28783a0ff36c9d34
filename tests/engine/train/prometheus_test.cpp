#include "engine/train/prometheus.h"

#include <cmath>
#include <limits>

#include "tests/support/compare.h"

using namespace engine::train;

TEST_CASE("prometheus: samples of a metric stand together under one HELP and TYPE") {
  const PrometheusText::Labels common = {{"run", "a \"b\"\\c\nd"}};
  PrometheusText text(common);
  text.gauge("step", "Steps done.", 12);
  text.gauge("load", "Load.", 1.5, {{"layer", "0"}});
  text.gauge("loss", "Loss.", std::numeric_limits<double>::quiet_NaN());
  text.gauge("load", "Load.", std::numeric_limits<double>::infinity(), {{"layer", "1"}});
  CHECK(text.text() ==
        "# HELP step Steps done.\n"
        "# TYPE step gauge\n"
        "step{run=\"a \\\"b\\\"\\\\c\\nd\"} 12\n"
        "# HELP load Load.\n"
        "# TYPE load gauge\n"
        "load{run=\"a \\\"b\\\"\\\\c\\nd\",layer=\"0\"} 1.5\n"
        "load{run=\"a \\\"b\\\"\\\\c\\nd\",layer=\"1\"} +Inf\n"
        "# HELP loss Loss.\n"
        "# TYPE loss gauge\n"
        "loss{run=\"a \\\"b\\\"\\\\c\\nd\"} NaN\n");
  PrometheusText bare(PrometheusText::Labels{});
  bare.gauge("x", "X.", -0.25);
  CHECK(bare.text() == "# HELP x X.\n# TYPE x gauge\nx -0.25\n");
}
