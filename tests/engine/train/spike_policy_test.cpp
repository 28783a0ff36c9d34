#include "engine/train/spike_policy.h"

#include "engine/core/error.h"
#include "engine/train/sample_order.h"
#include "tests/support/compare.h"
#include "tests/support/tiny_run.h"

namespace {

using namespace engine;
using train::SampleOrder;
using train::SpikeAction;
using train::SpikePolicy;

TrainingConfig with_action(const std::string& action) {
  TrainingConfig config;
  config.on_spike = action;
  config.spike_z = 5;
  return config;
}

}  // namespace

TEST_CASE("spike policy: what is above the limit is a spike, in the loss or in the gradient norm") {
  SpikePolicy log(with_action("log")), rollback(with_action("rollback"));
  CHECK(log.decide({}, {}) == SpikeAction::none);
  CHECK(log.decide(5.0, -9.0) == SpikeAction::none);
  CHECK(log.decide(-100.0, {}) == SpikeAction::none);
  CHECK(log.decide(5.1, {}) == SpikeAction::log);
  CHECK(log.decide({}, 5.1) == SpikeAction::log);
  CHECK(rollback.decide(0.0, 6.0) == SpikeAction::rollback);
}

TEST_CASE("spike policy: at most three updates in a row are left out, also across a checkpoint") {
  SpikePolicy policy(with_action("skip"));
  for (int i = 0; i < 2; ++i) CHECK(policy.decide(9.0, {}) == SpikeAction::skip);
  SpikePolicy resumed(with_action("skip"));
  resumed.count_rollback();
  resumed.set_state(policy.state());
  CHECK(resumed.rollbacks() == 0);
  CHECK(resumed.decide(9.0, {}) == SpikeAction::skip);
  CHECK(resumed.decide(9.0, {}) == SpikeAction::log);
  CHECK(resumed.decide(9.0, {}) == SpikeAction::log);
  CHECK(resumed.decide(0.0, {}) == SpikeAction::none);
  CHECK(resumed.decide(9.0, {}) == SpikeAction::skip);
}

TEST_CASE("sample order: places skip what is excluded, as a list of the rest would") {
  SampleOrder order;
  CHECK(order.sample(17) == 17);
  order.exclude({{8, 12}});
  order.exclude({{3, 4}, {12, 14}});
  order.exclude({{20, 21}});
  CHECK(order.excluded() == std::vector<SampleOrder::Range>{{3, 4}, {8, 14}, {20, 21}});
  std::vector<int64_t> rest;
  for (int64_t sample = 0; sample < 60; ++sample) {
    if (sample != 3 && (sample < 8 || sample >= 14) && sample != 20) rest.push_back(sample);
  }
  for (size_t place = 0; place < rest.size(); ++place) CHECK(order.sample(static_cast<int64_t>(place)) == rest[place]);
  CHECK(order.samples(2, 6) == std::vector<SampleOrder::Range>{{2, 3}, {4, 8}, {14, 15}});
  CHECK(train::ranges_text(order.samples(2, 6)) == "2 to 2, 4 to 7, 14 to 14");
  SampleOrder resumed;
  resumed.set_state(order.state());
  CHECK(resumed.excluded() == order.excluded());
  CHECK_THROWS_AS(resumed.set_state({5, 5}), Error);
  CHECK_THROWS_AS(resumed.set_state({5, 9, 7, 10}), Error);
}

namespace {

constexpr int64_t kPlanted = 60;  // the step, from 1, whose samples are unlike all others

struct SpikedRun {
  std::vector<train::StepResult> steps;
  std::string digest;
  std::vector<float> before, after;  // dense weights and expert biases around the planted step
};

SpikedRun run_with_spike(const std::string& action, int ranks, int ep_size) {
  Config config = test::tiny_config();
  config.model.router.bias_update_rate = 0.01;
  config.train.on_spike = action;
  config.train.spike_z = 4;
  config.optim.lr = 1e-2;
  const int64_t first_planted = (kPlanted - 1) * config.sequences_per_step();
  SpikedRun run;
  comm::run_thread_ranks(ranks, 1, [&](std::unique_ptr<comm::Group> world) {
    comm::ParallelGroups groups = comm::make_parallel_groups(std::move(world), ep_size);
    train::Trainer trainer(config, groups);
    trainer.begin_digest();
    const auto read = [&](int64_t sample, int32_t* tokens) {
      test::tiny_sample(config, sample, tokens);
      if (sample < first_planted || sample >= first_planted + config.sequences_per_step()) return;
      for (int64_t s = 0; s <= config.train.seq_len; ++s) tokens[s] = static_cast<int32_t>((s * s * 31 + sample) % 61);
    };
    const auto weights = [&] {
      const float* from = trainer.store().dense().weights.f32();
      std::vector<float> values(from, from + trainer.store().dense().elements);
      for (moe::MoeLayer* layer : trainer.model().moe_layers()) {
        const engine::ConstTensor bias_E = layer->expert_bias()->view();
        values.insert(values.end(), bias_E.f32(), bias_E.f32() + bias_E.num_elements());
      }
      return values;
    };
    const bool leads = groups.world->rank() == 0;
    for (int64_t step = 1; step <= kPlanted + 1; ++step) {
      if (leads && step == kPlanted) run.before = weights();
      const train::StepResult result = trainer.train_step((step - 1) * config.sequences_per_step(), read);
      if (leads) run.steps.push_back(result);
      if (leads && step == kPlanted) run.after = weights();
      if (result.spike == SpikeAction::rollback) break;
    }
    if (leads) run.digest = trainer.digest();
  });
  return run;
}

}  // namespace

TEST_CASE("spike policy: a planted spike is found, and every layout does the same about it, bit by bit") {
  for (const char* action : {"log", "skip", "rollback"}) {
    const SpikedRun one = run_with_spike(action, 1, 1);
    REQUIRE(static_cast<int64_t>(one.steps.size()) >= kPlanted);
    const train::StepResult& planted = one.steps[kPlanted - 1];
    INFO(action, ": loss ", planted.loss, ", z ", planted.loss_z.value_or(0), ", norm z ",
         planted.grad_norm_z.value_or(0));
    for (int64_t step = 1; step < kPlanted; ++step) {
      const train::StepResult& before = one.steps[static_cast<size_t>(step - 1)];
      CHECK_MESSAGE(before.spike == SpikeAction::none, "step ", step, ": loss ", before.loss, ", z ",
                    before.loss_z.value_or(0), ", norm ", before.grad_norm, ", z ", before.grad_norm_z.value_or(0));
    }
    const std::string name = action;
    CHECK(planted.spike == (name == "log"    ? SpikeAction::log
                            : name == "skip" ? SpikeAction::skip
                                             : SpikeAction::rollback));
    CHECK((one.before == one.after) == (name != "log"));
    CHECK(static_cast<int64_t>(one.steps.size()) == (name == "rollback" ? kPlanted : kPlanted + 1));
    if (name == "log") continue;
    for (const auto& [ranks, ep_size] : {std::pair{2, 2}, {4, 2}}) {
      const SpikedRun other = run_with_spike(action, ranks, ep_size);
      CHECK_MESSAGE(other.digest == one.digest, action, " on ", ranks, " ranks");
      CHECK(other.after == one.after);
    }
  }
  CHECK(run_with_spike("log", 1, 1).digest != run_with_spike("skip", 1, 1).digest);
}
