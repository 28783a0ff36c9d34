// The list of a step's ops against the formulas of the model, and each of them run.
#include "engine/train/step_ops.h"

#include <algorithm>
#include <cmath>

#include "engine/config/parameter_count.h"
#include "engine/train/step_time.h"
#include "tests/support/compare.h"
#include "tests/support/mixed_config.h"

using engine::Config;
using engine::train::Layout;
using engine::train::Limit;
using engine::train::step_ops;
using engine::train::StepOp;

namespace {

double product_flops(const std::vector<StepOp>& ops) {
  double flops = 0;
  for (const StepOp& op : ops) flops += op.is_product() ? op.calls * op.flops : 0;
  return flops;
}

}  // namespace

TEST_CASE("step_ops: products add up to the model's FLOPs, whatever the layout") {
  for (const Config& config : {test::tiny_config(), test::mixed_config()}) {
    const double tokens = static_cast<double>(config.batch_tokens());
    const double forward = engine::forward_flops_per_token(config.model, config.train.seq_len);
    const auto& m = config.model;
    // attention's backward computes the scores again
    const double again =
        static_cast<double>(m.num_hidden_layers * m.num_attention_heads * m.head_size() * (config.train.seq_len + 1));
    for (const auto& [ranks, ep] : {std::pair{1, 1}, {2, 1}, {2, 2}, {4, 2}, {8, 8}}) {
      const double all = product_flops(step_ops(config, Layout{.ranks = ranks, .ep_size = ep})) * ranks;
      CHECK(all == doctest::Approx((3 * forward + again) * tokens).epsilon(1e-9));
    }
  }
}

TEST_CASE("step_ops: what is sent") {
  const Config config = test::tiny_config();
  const auto sent = [](const std::vector<StepOp>& ops, Limit limit) {
    double bytes = 0;
    for (const StepOp& op : ops) bytes += op.limit == limit ? op.calls * op.bytes : 0;
    return bytes;
  };
  const auto alone = step_ops(config, {.ranks = 1});
  CHECK(std::none_of(alone.begin(), alone.end(), [](const StepOp& op) { return op.is_link(); }));
  const auto two = step_ops(config, {.ranks = 2, .ep_size = 2});
  // 2 layers, 96 tokens a rank: of 2 choices of 8 experts half stay at home; tokens go to 1.5 ranks on average
  const double row = 4 * 24, weights = 4 * 2, counts = 8 * 2;
  CHECK(sent(two, Limit::link_ep) ==
        doctest::Approx(2 * (96 * 2 * row + 72 * 2 * row + 72 * 2 * weights + counts)).epsilon(1e-9));
  CHECK(sent(two, Limit::link_expert_dp) == 0);
  const auto dense = step_ops(config, {.ranks = 2, .ep_size = 1});
  CHECK(sent(dense, Limit::link_ep) == 0);
  CHECK(sent(dense, Limit::link_world) > 0);
  CHECK(sent(dense, Limit::link_expert_dp) > sent(dense, Limit::link_world));
}

TEST_CASE("step_ops: every op runs alone, and takes time") {
  for (const auto& [ranks, ep] : {std::pair{1, 1}, {2, 2}, {4, 2}}) {
    const Layout layout{.ranks = ranks, .ep_size = ep};
    std::vector<double> seconds;
    comm::run_thread_ranks(ranks, 1, [&](std::unique_ptr<comm::Group> world) {
      comm::ParallelGroups groups = comm::make_parallel_groups(std::move(world), ep);
      const std::vector<double> mine =
          engine::train::time_ops(step_ops(test::mixed_config(), layout), groups, engine::Device::cpu, 0.05);
      if (groups.world->rank() == 0) seconds = mine;
    });
    CHECK(seconds.size() == step_ops(test::mixed_config(), layout).size());
    CHECK(std::all_of(seconds.begin(), seconds.end(), [](double s) { return s > 0 && s < 1; }));
  }
}

TEST_CASE("step_time: limits and efficiencies of a description") {
  engine::ClusterConfig cluster;
  cluster.flops_per_second = 1e9;
  cluster.memory_bytes_per_second = 1e8;
  cluster.efficiency.matmul = 0.5;
  cluster.op_seconds = 1e-3;
  cluster.ranks_per_node = 2;
  cluster.in_node = {1e6, 1e-3};
  cluster.between_nodes = {1e5, 1e-2};
  const StepOp product{.name = "product", .phase = "a", .limit = Limit::matmul, .calls = 2, .flops = 1e9, .bytes = 1e6};
  const StepOp sweep{.name = "sweep", .phase = "b", .limit = Limit::memory, .calls = 1, .bytes = 1e8};
  const StepOp near{.name = "near", .phase = "b", .limit = Limit::link_ep, .calls = 1, .bytes = 1e6};
  const StepOp far{.name = "far", .phase = "b", .limit = Limit::link_world, .calls = 1, .bytes = 1e6};
  const Layout layout{.ranks = 4, .ep_size = 2};
  CHECK(least_seconds(product, cluster, layout) == 1);
  CHECK(least_seconds(sweep, cluster, layout) == 1);
  CHECK(least_seconds(near, cluster, layout) == doctest::Approx(1.001));
  CHECK(least_seconds(far, cluster, layout) == doctest::Approx(10.01));
  const auto time = predict_step({product, sweep, near, far}, cluster, layout, {{"sweep", 3.0}});
  REQUIRE(time.phases.size() == 2);
  CHECK(time.phases[0].seconds == doctest::Approx(2 * (2 + 1e-3)));
  CHECK(time.phases[1].seconds == doctest::Approx(3 + 1.001 + 10.01 + 2e-3));
  CHECK(time.least == doctest::Approx(2 + 1 + 1.001 + 10.01));
  CHECK(time.all_to_all == 1e6);
  CHECK(time.reduction == 1e6);
}
