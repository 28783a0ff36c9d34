#include "engine/train/lr_schedule.h"

#include <doctest/doctest.h>

#include <cmath>
#include <string>
#include <vector>

using namespace engine;
using train::learning_rate;

namespace {

OptimizerConfig optimizer(const std::string& schedule) {
  OptimizerConfig optim;
  optim.lr = 1.0;
  optim.min_lr = 0.1;
  optim.warmup = {4};
  optim.schedule = schedule;
  optim.decay_fraction = 0.25;
  return optim;
}

}  // namespace

TEST_CASE("lr_schedule: warm-up is a straight line that ends at the whole rate") {
  for (const char* schedule : {"constant", "cosine", "linear", "wsd"}) {
    const OptimizerConfig optim = optimizer(schedule);
    for (int64_t step = 0; step < 4; ++step) {
      CHECK(learning_rate(optim, step, 21) == doctest::Approx(0.25 * static_cast<double>(step + 1)));
    }
    CHECK(learning_rate(optim, 4, 21) == doctest::Approx(1.0));
  }
}

TEST_CASE("lr_schedule: decaying schedules end at min_lr in the last step and stay there") {
  for (const char* schedule : {"cosine", "linear", "wsd"}) {
    INFO(std::string(schedule));
    const OptimizerConfig optim = optimizer(schedule);
    CHECK(learning_rate(optim, 20, 21) == doctest::Approx(0.1));
    CHECK(learning_rate(optim, 500, 21) == doctest::Approx(0.1));
    for (int64_t step = 4; step < 20; ++step) {
      CHECK(learning_rate(optim, step + 1, 21) <= learning_rate(optim, step, 21));
    }
  }
  CHECK(learning_rate(optimizer("constant"), 500, 21) == 1.0);
}

TEST_CASE("lr_schedule: the middle of each course") {
  // step 12 is half of the way from 4 to 20
  CHECK(learning_rate(optimizer("linear"), 12, 21) == doctest::Approx(0.55));
  CHECK(learning_rate(optimizer("cosine"), 12, 21) == doctest::Approx(0.55));
  CHECK(learning_rate(optimizer("cosine"), 8, 21) == doctest::Approx(0.1 + 0.9 * (1 + std::sqrt(0.5)) / 2));
  // the last quarter of 40 steps decays
  CHECK(learning_rate(optimizer("wsd"), 29, 40) == doctest::Approx(1.0));
  CHECK(learning_rate(optimizer("wsd"), 33, 40) < 1.0);
  CHECK(learning_rate(optimizer("wsd"), 39, 40) == doctest::Approx(0.1));
}

TEST_CASE("lr_schedule: the run ends with whichever stop comes first") {
  Config config;
  config.train.batch_tokens = {1000};
  CHECK(train::scheduled_steps(config) == 0);
  config.train.stop.tokens = Count{4500};
  CHECK(train::scheduled_steps(config) == 4);  // never more than asked for
  config.train.stop.steps = Count{3};
  CHECK(train::scheduled_steps(config) == 3);
  config.train.stop.steps = Count{9};
  CHECK(train::scheduled_steps(config) == 4);
}
