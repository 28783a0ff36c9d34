#include "engine/train/grouped_ways.h"

#include <algorithm>
#include <iterator>

#include "comm/thread_group.h"
#include "engine/core/device.h"
#include "engine/core/profiler.h"
#include "engine/train/grouped_products.h"

namespace engine::train {
namespace {

constexpr int kTogether = 8;  // calls that are queued at once, as the host of a step runs ahead of its GPU

double seconds_of_call(const GroupedProduct::Run& run, ops::GroupedWay way) {
  const double start = monotonic_seconds();
  for (int i = 0; i < kTogether; ++i) run(way);
  device_synchronize();
  return (monotonic_seconds() - start) / kTogether;
}

std::vector<GroupedWays::Time> time_product(const GroupedProduct& product, const Layout& layout, double seconds) {
  Operands operands(layout.device, layout.activations());
  const GroupedProduct::Run run = product.prepare(operands);
  std::vector<std::vector<double>> turns(std::size(ops::kGroupedWays));
  const auto takes = [&](ops::GroupedWay way) {
    return ops::grouped_way_takes(way, product.operands, product.results);
  };
  const auto round = [&] {
    const double start = monotonic_seconds();
    for (size_t i = 0; i < turns.size(); ++i) {
      const ops::GroupedWay way = ops::kGroupedWays[i];
      if (takes(way)) turns[i].push_back(seconds_of_call(run, way));
    }
    return monotonic_seconds() - start;
  };
  round();  // algorithms are chosen, workspaces allocated
  for (std::vector<double>& times : turns) times.clear();
  const double one = round();
  const auto count = std::clamp<int64_t>(static_cast<int64_t>(seconds / one), 3, 200);
  for (int64_t i = 1; i < count; ++i) round();
  std::vector<GroupedWays::Time> result;
  for (size_t i = 0; i < turns.size(); ++i) {
    std::vector<double>& times = turns[i];
    std::sort(times.begin(), times.end());
    result.push_back({ops::kGroupedWays[i], {}});
    if (!times.empty()) result.back().seconds = times[times.size() / 2];
  }
  return result;
}

}  // namespace

ops::GroupedWay GroupedWays::Product::fastest() const {
  return std::min_element(
             times.begin(), times.end(),
             [](const Time& a, const Time& b) { return a.seconds && (!b.seconds || *a.seconds < *b.seconds); })
      ->way;
}

GroupedWays time_grouped_ways(const Config& config, const Layout& layout, double seconds) {
  const StepShapes shapes(config, layout);
  const int64_t D = shapes.model.hidden_size, F = shapes.model.moe_intermediate_size;
  GroupedWays ways{shapes.experts, shapes.R, {}};
  if (shapes.moe_layers == 0) return ways;
  std::vector<GroupedProduct> products = grouped_products(shapes, kGateAndUp, F, D);
  for (GroupedProduct& product : grouped_products(shapes, kDown, D, F)) products.push_back(std::move(product));
  comm::run_thread_ranks(1, layout.threads, [&](std::unique_ptr<comm::Group>) {
    for (const GroupedProduct& product : products) {
      ways.products.push_back({product.name, product.flops, product.operands, product.results,
                               time_product(product, layout, seconds / static_cast<double>(products.size()))});
    }
  });
  return ways;
}

}  // namespace engine::train
