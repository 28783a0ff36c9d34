// switchyard bench ops CONFIG: every op of a training step alone, beside what the machine allows it.
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "comm/thread_group.h"
#include "engine/config/check.h"
#include "engine/config/reader.h"
#include "engine/core/thread_pool.h"
#include "engine/ops/fma_peak.h"
#include "engine/ops/read_rate.h"
#include "engine/train/grouped_ways.h"
#include "engine/train/step_time.h"
#include "tools/bench.h"
#include "tools/measured_layout.h"

namespace tools {
namespace {

using namespace engine;
using train::Limit;
using train::StepOp;

struct Options : BenchedConfig {
  std::string device = "cpu";
  double seconds = 5;
  bool json = false;
};

const char* limit_name(Limit limit) {
  if (limit >= Limit::link_ep) return "link";
  return limit == Limit::memory ? "memory" : "arithmetic";
}

// A product for each line, a way for each column, the fastest one named; the way in use has a star.
void print_ways(const train::GroupedWays& ways) {
  std::printf("\ngrouped products of %lld experts with %.0f rows each: us and GFLOP/s of each way; * in use\n",
              static_cast<long long>(ways.experts), static_cast<double>(ways.rows) / static_cast<double>(ways.experts));
  std::printf("%-46s", "product");
  for (const ops::GroupedWay way : ops::kGroupedWays) {
    std::printf(" %22s", str(grouped_way_name(way), way == ops::kGroupedWay ? " *" : "").c_str());
  }
  std::printf("  fastest\n");
  for (const train::GroupedWays::Product& product : ways.products) {
    std::printf("%-46s", product.name.c_str());
    for (const auto& [way, seconds] : product.times) {
      if (seconds) {
        std::printf(" %11.2f %10.1f", *seconds * 1e6, product.flops / *seconds * 1e-9);
      } else {
        std::printf(" %22s", str("not ", dtype_name(product.operands), " to ", dtype_name(product.results)).c_str());
      }
    }
    std::printf("  %s\n", grouped_way_name(product.fastest()));
  }
}

nlohmann::ordered_json to_json(const train::GroupedWays& ways) {
  nlohmann::ordered_json products = nlohmann::ordered_json::array();
  for (const train::GroupedWays::Product& product : ways.products) {
    nlohmann::ordered_json seconds;  // null: the way does not take the types
    for (const auto& time : product.times) {
      nlohmann::ordered_json& of_way = seconds[grouped_way_name(time.way)];
      if (time.seconds) of_way = *time.seconds;
    }
    products.push_back({{"op", product.name},
                        {"flops", product.flops},
                        {"seconds", seconds},
                        {"fastest", grouped_way_name(product.fastest())}});
  }
  return {{"experts", ways.experts},
          {"rows", ways.rows},
          {"in_use", grouped_way_name(ops::kGroupedWay)},
          {"products", products}};
}

int run(const Options& options) {
  const Config config = load_config(options.config, options.sets);
  const train::Layout layout = measured_layout(config, options.ranks, options.threads, options.device);
  const bool on_gpu = layout.device == Device::cuda;
  const bool has_ways = on_gpu && config.model.num_moe_layers() > 0;
  const double for_ways = has_ways ? options.seconds / 4 : 0;
  const train::Machine machine = train::measure_machine(config, layout, options.seconds - for_ways);
  const train::GroupedWays ways = has_ways ? time_grouped_ways(config, layout, for_ways) : train::GroupedWays{};
  const ClusterConfig& limits = machine.description;
  const std::vector<StepOp> ops = train::step_ops(train::sample_of(config, layout.device), layout);
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  if (!options.json) {
    if (on_gpu) {
      std::printf("%s; a large product in %s reaches %.1f GFLOP/s, a copy %.1f GB/s\n\n", limits.name.c_str(),
                  dtype_name(layout.activations()), limits.flops_per_second * 1e-9,
                  limits.memory_bytes_per_second * 1e-9);
    } else {
      std::printf("%d ranks x %d threads, %s; of a rank: FMA peak %.1f GFLOP/s, %.1f GB/s read from memory\n\n",
                  layout.ranks, layout.threads, cpu_target_name(cpu_target()), limits.flops_per_second * 1e-9,
                  limits.memory_bytes_per_second * 1e-9);
    }
    std::printf("%-46s %7s %10s %9s %11s %9s %9s  %s\n", "op", "calls", "MFLOP", "MB", "us", "GFLOP/s", "GB/s",
                "of its limit");
  }
  for (const StepOp& op : ops) {
    const double slowdown = machine.slowdowns.at(op.name), seconds = least_seconds(op, limits, layout) * slowdown;
    const double bytes = train::moved_bytes(op, layout);
    const double arithmetic = op.flops / limits.flops_per_second, memory = bytes / limits.memory_bytes_per_second;
    const char* limit = op.is_product() && memory > arithmetic ? "memory" : limit_name(op.limit);
    rows.push_back({{"op", op.name},
                    {"phase", op.phase},
                    {"calls", op.calls},
                    {"flops", op.flops},
                    {"bytes", bytes},
                    {"seconds", seconds},
                    {"limit", limit},
                    {"fraction", 1 / slowdown}});
    if (options.json) continue;
    std::printf("%-46s %7.0f %10.3f %9.3f %11.2f %9.1f %9.2f  %.2f of %s\n", op.name.c_str(), op.calls, op.flops * 1e-6,
                bytes * 1e-6, seconds * 1e6, op.flops / seconds * 1e-9, bytes / seconds * 1e-9, 1 / slowdown, limit);
  }
  if (options.json) {
    nlohmann::ordered_json result = {{"ranks", layout.ranks},
                                     {"threads", layout.threads},
                                     {"cpu", cpu_target_name(cpu_target())},
                                     {"device", options.device},
                                     {"peak_flops_per_second", limits.flops_per_second},
                                     {"read_bytes_per_second", limits.memory_bytes_per_second},
                                     {"ops", rows}};
    if (has_ways) result["grouped_products"] = to_json(ways);
    std::printf("%s\n", result.dump().c_str());
  } else {
    std::printf("\nA fraction above 1: the operands were in a cache.\n");
    if (has_ways) print_ways(ways);
  }
  return 0;
}

}  // namespace

void add_bench_ops(CommandLine& bench) {
  auto options = std::make_shared<Options>();
  CommandLine command = bench.add_subcommand("ops", "every op of a step alone, at a config's shapes");
  add_benched_config(command, *options);
  add_device_option(command, options->device);
  command.add_option("--seconds", options->seconds, "to spend in all, about").positive();
  command.add_flag("--json", options->json, "one JSON object on stdout");
  command.footer("Example: switchyard bench ops configs/bench_cpu.json");
  command.runs([options] { return run(*options); });
}

}  // namespace tools
