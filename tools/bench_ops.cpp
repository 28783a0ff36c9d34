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

int run(const Options& options) {
  const Config config = load_config(options.config, options.sets);
  const train::Layout layout = measured_layout(config, options.ranks, options.threads, options.device);
  const bool on_gpu = layout.device == Device::cuda;
  const train::Machine machine = train::measure_machine(config, layout, options.seconds);
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
    const nlohmann::ordered_json result = {{"ranks", layout.ranks},
                                           {"threads", layout.threads},
                                           {"cpu", cpu_target_name(cpu_target())},
                                           {"device", options.device},
                                           {"peak_flops_per_second", limits.flops_per_second},
                                           {"read_bytes_per_second", limits.memory_bytes_per_second},
                                           {"ops", rows}};
    std::printf("%s\n", result.dump().c_str());
  } else {
    std::printf("\nA fraction above 1: the operands were in a cache.\n");
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
