// AdamW over ranks: groups of weights, the norm, and states that lie on one rank each.
#include "engine/train/optimizer.h"

#include <mutex>

#include "comm/thread_group.h"
#include "engine/core/error.h"
#include "tests/support/compare.h"

namespace {

using namespace engine;

constexpr int64_t kElements = 3 * nn::kParameterBlock + 100;  // in four blocks, spread over the ranks

struct Outcome {
  double norm = 0;
  std::vector<std::vector<float>> weights;  // a.weight, b.norm.weight
  int64_t slices = 0, states = 0;
};

// One step on `ranks` ranks, the gradients all from the first.
Outcome one_step(const OptimizerConfig& config, int ranks, double clip, float bad = 0) {
  Outcome outcome;
  std::mutex mutex;
  comm::run_thread_ranks(ranks, 1, [&](std::unique_ptr<comm::Group> world) {
    comm::ParallelGroups groups = comm::make_parallel_groups(std::move(world), 1);
    nn::ParameterStore store;
    store.add({.name = "a.weight", .dims = {kElements}});
    store.add({.name = "b.norm.weight", .dims = {10}, .init = nn::Init::ones, .decays = false});
    store.commit(4, true);
    store.initialize(1);
    train::TensorTable table(store, groups);
    train::Optimizer optimizer(config, store, table, groups);
    for (nn::Parameter& p : store.all()) {
      for (int64_t i = 0; i < p.elements && groups.world->rank() == 0; ++i) {
        p.gradient.sum[i] = static_cast<double>(test::value(p.elements == 10 ? 5 : 6, i));
      }
    }
    if (bad != 0 && groups.world->rank() == 0) store.find("b.norm.weight")->gradient.sum[3] = static_cast<double>(bad);
    optimizer.reduce_gradients();
    const double norm = optimizer.gradient_norm();
    optimizer.update(1, 0.01, clip);
    std::lock_guard lock(mutex);
    for (const train::OptimizerSlice& slice : optimizer.slices()) outcome.slices += 1, outcome.states += slice.count;
    if (groups.world->rank() != 0) return;
    outcome.norm = norm;
    for (nn::Parameter& p : store.all()) {
      outcome.weights.push_back({p.weight.f32(), p.weight.f32() + p.elements});
      for (int64_t i = 0; i < p.elements; ++i) {
        CHECK(p.gradient.sum[i] == 0);  // cleared for the next step
      }
    }
  });
  return outcome;
}

// The first step of AdamW moves every weight by lr against the sign of its gradient, nearly.
void check_first_step(const std::vector<float>& weights, const std::vector<float>& before, uint64_t seed, double lr,
                      double decay) {
  for (size_t i = 0; i < weights.size(); ++i) {
    const double g = static_cast<double>(test::value(seed, static_cast<int64_t>(i)));
    const double expected = static_cast<double>(before[i]) * (1 - lr * decay) - lr * g / (std::abs(g) + 1e-8);
    REQUIRE(static_cast<double>(weights[i]) == doctest::Approx(expected).epsilon(1e-4));
  }
}

std::vector<std::vector<float>> initial_weights() {
  nn::ParameterStore store;
  store.add({.name = "a.weight", .dims = {kElements}});
  store.commit(1, false);
  store.initialize(1);
  const float* w = store.find("a.weight")->weight.f32();
  return {{w, w + kElements}, std::vector<float>(10, 1.0f)};
}

}  // namespace

TEST_CASE("optimizer: decay is for matrices, groups change rate and decay by name, the last match holds") {
  OptimizerConfig config;
  config.weight_decay = 0.5;
  const auto before = initial_weights();
  const Outcome plain = one_step(config, 1, 1.0);
  check_first_step(plain.weights[0], before[0], 6, 0.01, 0.5);
  check_first_step(plain.weights[1], before[1], 5, 0.01, 0);
  config.groups = {{.pattern = "*", .lr_scale = 7, .weight_decay = {}},
                   {.pattern = "*norm*", .lr_scale = 0.5, .weight_decay = 0.25}};
  const Outcome grouped = one_step(config, 1, 1.0);
  check_first_step(grouped.weights[0], before[0], 6, 0.07, 0.5);
  check_first_step(grouped.weights[1], before[1], 5, 0.005, 0.25);
}

TEST_CASE("optimizer: on any ranks the same bits, each state on one rank and each weight counted once in the norm") {
  OptimizerConfig config;
  config.weight_decay = 0.1;
  const Outcome one = one_step(config, 1, 0.3);
  double squares = 0;
  for (int64_t i = 0; i < kElements; ++i) squares += std::pow(static_cast<double>(test::value(6, i)), 2);
  for (int64_t i = 0; i < 10; ++i) squares += std::pow(static_cast<double>(test::value(5, i)), 2);
  CHECK(one.norm == doctest::Approx(std::sqrt(squares)).epsilon(1e-9));
  for (int ranks : {2, 3, 4, 7}) {
    INFO(ranks, " ranks");
    const Outcome many = one_step(config, ranks, 0.3);
    CHECK(many.norm == one.norm);
    CHECK(many.states == kElements + 10);
    CHECK(many.slices >= std::min(ranks, 5));
    for (size_t i = 0; i < 2; ++i) test::check_same_bits(many.weights[i], one.weights[i], "weights");
  }
}

TEST_CASE("optimizer: a gradient that is not finite is named on every rank") {
  for (int ranks : {1, 3}) {
    try {
      one_step({}, ranks, 1.0, std::numeric_limits<float>::infinity());
      FAIL("no error");
    } catch (const Error& error) {
      CHECK(error.code() == ExitCode::numerical);
      CHECK(std::string(error.what()).find("the gradient of b.norm.weight is not finite") != std::string::npos);
    }
  }
}
