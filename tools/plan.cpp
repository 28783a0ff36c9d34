// switchyard plan CONFIG: what a training run takes (memory, time, traffic, money) before it is started.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "engine/config/check.h"
#include "engine/config/parameter_count.h"
#include "engine/config/reader.h"
#include "engine/config/units.h"
#include "engine/core/thread_pool.h"
#include "engine/train/generation_cost.h"
#include "engine/train/memory_plan.h"
#include "engine/train/step_time.h"
#include "tools/command.h"
#include "tools/command_line.h"
#include "tools/measured_layout.h"

namespace tools {
namespace {

using namespace engine;
using train::Layout;
using train::MemoryUse;

struct Options {
  std::string config, cluster, device = "cpu";
  std::vector<std::string> sets;
  int ranks = 0, threads = 0;
  double price = -1;
  bool check = false, json = false;
};

struct Plan {
  Config config;
  Layout layout;
  ClusterConfig cluster;
  MemoryUse memory;
  train::StepTime time;
  ParameterCount parameters;
  double flops_per_token = 0, tokens_per_second = 0;

  double tokens() const { return static_cast<double>(config.batch_tokens()); }
  double flops_per_rank() const { return flops_per_token * tokens_per_second / layout.ranks; }
  double hours_per_billion() const { return 1e9 / tokens_per_second / 3600; }
  bool fits() const { return memory.total() <= cluster.memory.value; }
};

MemoryUse memory_with(const Options& options, const Layout& layout, const std::string& set) {
  std::vector<std::string> sets = options.sets;
  if (!set.empty()) sets.push_back(set);
  const Config config = load_config(options.config, sets);
  Layout changed = layout;
  changed.ep_size = check_ranks(config, layout.ranks);
  return train::plan_memory(config, changed);
}

Plan make_plan(const Options& options) {
  Plan plan;
  plan.config = load_config(options.config, options.sets);
  const bool here = options.cluster.empty();
  if (!here && options.device == "cuda") {
    throw Error(ExitCode::usage, "--cluster describes the machines, GPUs or not; leave --device out");
  }
  if (!here) plan.cluster = load_cluster(options.cluster);
  Layout& layout = plan.layout;
  if (here) {
    layout = measured_layout(plan.config, options.ranks > 0 ? options.ranks : 1, options.threads, options.device);
  } else {
    layout.ranks = options.ranks > 0 ? options.ranks : static_cast<int>(plan.cluster.ranks);
    layout.ep_size = check_ranks(plan.config, layout.ranks);
    layout.threads = std::max(1, options.threads);
    layout.element_bytes = plan.cluster.element_bytes;
    layout.device = layout.element_bytes < 4 ? Device::cuda : Device::cpu;
  }
  train::Slowdowns slowdowns;
  if (here) {
    train::Machine machine = train::measure_machine(plan.config, layout, 2);
    plan.cluster = machine.description;
    slowdowns = machine.slowdowns;
  }
  if (options.price >= 0) plan.cluster.price_per_hour = options.price;
  plan.memory = train::plan_memory(plan.config, layout);
  plan.time = train::predict_step(train::step_ops(plan.config, layout), plan.cluster, layout, slowdowns);
  plan.parameters = count_parameters(plan.config.model);
  plan.flops_per_token = 3 * forward_flops_per_token(plan.config.model, plan.config.train.seq_len);
  plan.tokens_per_second = plan.tokens() / plan.time.seconds;
  return plan;
}

// What would take less memory, each with what it comes to.
std::string remedies(const Options& options, const Plan& plan) {
  std::string list;
  const auto offer = [&](const Layout& layout, const std::string& set, const std::string& what) {
    try {
      const int64_t bytes = memory_with(options, layout, set).total();
      if (bytes < plan.memory.total()) list += str(list.empty() ? "" : ", ", what, " (", print_bytes(bytes), ")");
    } catch (const Error&) {  // a rule forbids it
    }
  };
  const int64_t sequences = plan.config.sequences_per_step();
  offer(plan.layout, "train.micro_batch=1", "train.micro_batch 1");
  offer(plan.layout, str("train.granules=", sequences),
        str("train.granules ", sequences, ", which is another training"));
  if (plan.config.parallel.ep_size.value) offer(plan.layout, "parallel.ep_size=auto", "parallel.ep_size \"auto\"");
  Layout more = plan.layout;
  more.ranks *= 2;
  offer(more, "", str(more.ranks, " ranks"));
  return list.empty() ? "use a smaller model or larger machines" : "what takes less: " + list;
}

// Generation on one rank, as long as its weights and what it reads of them set the pace.
struct Generation {
  int64_t batch;
  train::GenerationCost cost;
  double seconds;  // of a step
};
std::vector<Generation> plan_generation(const Plan& plan) {
  std::vector<Generation> list;
  const double rate = plan.cluster.memory_bytes_per_second;
  for (const int64_t batch : {1, 8}) {
    train::GenerationCost cost = train::generation_cost(plan.config.model, batch, 128);
    const double scale = static_cast<double>(plan.cluster.element_bytes) / 4;
    list.push_back({batch, cost, cost.bytes() * scale / rate});
  }
  return list;
}

nlohmann::ordered_json as_json(const Plan& plan) {
  nlohmann::ordered_json memory = nlohmann::ordered_json::object(), phases = nlohmann::ordered_json::object();
  for (const MemoryUse::Part& part : plan.memory.parts()) memory[part.name] = part.bytes;
  for (const auto& phase : plan.time.phases) phases[phase.name] = {{"seconds", phase.seconds}, {"least", phase.least}};
  nlohmann::ordered_json json = {{"parameters", plan.parameters.total},
                                 {"active_parameters", plan.parameters.active},
                                 {"flops_per_token", plan.flops_per_token},
                                 {"ranks", plan.layout.ranks},
                                 {"ep_size", plan.layout.ep_size},
                                 {"threads", plan.layout.threads},
                                 {"memory", memory},
                                 {"memory_bytes", plan.memory.total()},
                                 {"memory_there", plan.cluster.memory.value},
                                 {"fits", plan.fits()},
                                 {"checkpoint_bytes", train::checkpoint_bytes(plan.config.model)},
                                 {"all_to_all_bytes", plan.time.all_to_all},
                                 {"reduction_bytes", plan.time.reduction},
                                 {"step_seconds", plan.time.seconds},
                                 {"least_seconds", plan.time.least},
                                 {"phases", phases},
                                 {"tokens_per_second", plan.tokens_per_second},
                                 {"flops_per_second_and_rank", plan.flops_per_rank()},
                                 {"fraction_of_peak", plan.flops_per_rank() / plan.cluster.flops_per_second},
                                 {"hours_per_billion_tokens", plan.hours_per_billion()},
                                 {"machine",
                                  {{"name", plan.cluster.name},
                                   {"flops_per_second", plan.cluster.flops_per_second},
                                   {"memory_bytes_per_second", plan.cluster.memory_bytes_per_second},
                                   {"link_bytes_per_second", plan.cluster.in_node.bytes_per_second},
                                   {"link_latency", plan.cluster.in_node.latency}}}};
  for (const Generation& g : plan_generation(plan)) {
    json["generation"].push_back({{"batch", g.batch},
                                  {"experts_per_step", g.cost.experts},
                                  {"weight_bytes_per_step", g.cost.weight_bytes},
                                  {"cache_bytes_per_token", g.cost.cache_bytes_per_token},
                                  {"tokens_per_second_at_most", static_cast<double>(g.batch) / g.seconds}});
  }
  if (plan.cluster.price_per_hour) {
    json["cost_per_billion_tokens"] = *plan.cluster.price_per_hour * plan.layout.ranks * plan.hours_per_billion();
  }
  return json;
}

void print_memory(const Plan& plan) {
  std::printf("\n%-24s %12s\n", "memory of a rank", "MB");
  for (const MemoryUse::Part& part : plan.memory.parts()) {
    std::printf("  %-22s %12.2f\n", part.name, static_cast<double>(part.bytes) * 1e-6);
  }
  std::printf("  %-22s %12.2f   %s %s of %s\n", "in all", static_cast<double>(plan.memory.total()) * 1e-6,
              plan.fits() ? "fits into" : "does not fit into", print_bytes(plan.cluster.memory.value).c_str(),
              plan.cluster.name.c_str());
  std::printf("a checkpoint             %12.2f\n",
              static_cast<double>(train::checkpoint_bytes(plan.config.model)) * 1e-6);
}

void print_time(const Plan& plan) {
  std::printf("\n%-24s %12s %12s %7s\n", str("a step of ", plan.config.batch_tokens(), " tokens").c_str(), "ms",
              "at the limit", "share");
  for (const auto& phase : plan.time.phases) {
    std::printf("  %-22s %12.3f %12.3f %6.1f%%\n", phase.name.c_str(), phase.seconds * 1e3, phase.least * 1e3,
                100 * phase.seconds / plan.time.seconds);
  }
  std::printf("  %-22s %12.3f %12.3f\n", "in all", plan.time.seconds * 1e3, plan.time.least * 1e3);
  std::printf("  a rank sends %s to experts and back, %s to add gradients\n",
              print_bytes(static_cast<int64_t>(plan.time.all_to_all)).c_str(),
              print_bytes(static_cast<int64_t>(plan.time.reduction)).c_str());
  std::printf("\n%.0f tokens/s, %.3g GFLOP/s of each rank = %.2f of its peak; a billion tokens take %.1f h",
              plan.tokens_per_second, plan.flops_per_rank() * 1e-9,
              plan.flops_per_rank() / plan.cluster.flops_per_second, plan.hours_per_billion());
  if (plan.cluster.price_per_hour) {
    std::printf(" and cost %.2f", *plan.cluster.price_per_hour * plan.layout.ranks * plan.hours_per_billion());
  }
  std::printf("\n");
}

void print_generation(const Plan& plan) {
  std::printf("\ngeneration on one rank, 128 tokens behind each: keys and values %s a token\n",
              print_bytes(static_cast<int64_t>(plan_generation(plan)[0].cost.cache_bytes_per_token)).c_str());
  for (const Generation& g : plan_generation(plan)) {
    std::printf("  %lld at once: %.1f experts of a layer, %s of weights a step, at most %.0f tokens/s\n",
                static_cast<long long>(g.batch), g.cost.experts,
                print_bytes(static_cast<int64_t>(g.cost.weight_bytes)).c_str(),
                static_cast<double>(g.batch) / g.seconds);
  }
}

int run(const Options& options) {
  const Plan plan = make_plan(options);
  if (options.json) {
    std::printf("%s\n", as_json(plan).dump().c_str());
  } else {
    std::printf("%s: %s parameters, %s active, %s FLOPs per token\n", options.config.c_str(),
                print_count(plan.parameters.total).c_str(), print_count(plan.parameters.active).c_str(),
                print_count(static_cast<int64_t>(plan.flops_per_token)).c_str());
    std::printf("%s: %d ranks x %d threads, ep_size %lld; each %.4g GFLOP/s, %.3g GB/s from memory",
                plan.cluster.name.c_str(), plan.layout.ranks, plan.layout.threads,
                static_cast<long long>(plan.layout.ep_size), plan.cluster.flops_per_second * 1e-9,
                plan.cluster.memory_bytes_per_second * 1e-9);
    if (plan.layout.ranks > 1) {
      std::printf(", %.3g GB/s and %.3g us to others", plan.cluster.in_node.bytes_per_second * 1e-9,
                  plan.cluster.in_node.latency * 1e6);
    }
    std::printf("\n");
    print_memory(plan);
    print_time(plan);
    print_generation(plan);
  }
  if (options.check && !plan.fits()) {
    throw Error(ExitCode::requirement,
                str("a rank needs ", print_bytes(plan.memory.total()), " but ", plan.cluster.name, " has ",
                    print_bytes(plan.cluster.memory.value), "; ", remedies(options, plan)));
  }
  return 0;
}

}  // namespace

void add_plan(CommandLine& program) {
  auto options = std::make_shared<Options>();
  CommandLine command =
      program.add_subcommand("plan", "memory, time and traffic of a training run before it is started");
  command.add_option("config", options->config, "config file").required();
  command.add_option("--set", options->sets, "KEY=VALUE: another value for a config key; may be repeated");
  command.add_option("--ranks", options->ranks, "ranks (default: 1, or those of the cluster)").positive();
  command.add_option("--threads", options->threads, "threads of each rank (default: all processors, divided)")
      .positive();
  add_device_option(command, options->device);
  command.add_option("--cluster", options->cluster,
                     "description of machines, e.g. configs/clusters/h100_8.json (default: this one, measured)");
  command.add_option("--price", options->price, "price of a rank and hour").non_negative();
  command.add_flag("--check", options->check, "exit code 7 if a rank does not fit into its memory");
  command.add_flag("--json", options->json, "one JSON object on stdout");
  command.footer("Example: switchyard plan configs/mixtral_8x7b.json --cluster configs/clusters/h100_64.json --check");
  command.runs([options] { return run(*options); });
}

}  // namespace tools
