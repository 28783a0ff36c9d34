// switchyard experts simulate TRACE: what other layouts, placements and capacities would make of a recorded routing.
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>

#include "engine/core/error.h"
#include "engine/train/load_floor.h"
#include "engine/train/load_simulation.h"
#include "engine/train/placement_file.h"
#include "moe/capacity.h"
#include "tools/experts_report.h"

namespace tools {
namespace {

using namespace engine;
using Json = nlohmann::ordered_json;

struct Options {
  std::string trace, placement, plan;
  std::vector<int64_t> ep_sizes;
  std::vector<double> capacities;
  int64_t ranks = 0, replicas = 0, groups = 1, nodes = 1;
  bool json = false;
};

struct Row {
  std::string layout;
  int64_t ranks = 0, ep_size = 0;
  train::Simulated result{};
};

void check_layout(const train::TraceHeader& header, int64_t ranks, int64_t ep_size) {
  if (ranks % ep_size != 0 || ep_size > header.experts || ranks > header.granules) {
    throw Error(
        ExitCode::usage,
        str("ep_size ", ep_size, " on ", ranks, " ranks does not go: it must divide the ranks, ", "be at most the ",
            header.experts, " experts, and there are ", header.granules, " granules for the ranks"));
  }
}

// --ep-size, or what the trace had and the powers of two that its granules and experts allow.
std::vector<int64_t> layouts_to_try(const Options& options, const train::TraceHeader& header) {
  if (!options.ep_sizes.empty()) return options.ep_sizes;
  std::vector<int64_t> sizes;
  for (int64_t n = 2; n <= std::min(header.granules, header.experts) && n <= 64; n *= 2) sizes.push_back(n);
  return sizes;
}

std::vector<std::vector<int64_t>> replicate(const Options& options, const train::TraceCounts& counts, int64_t gpus) {
  const int64_t experts = counts.header().experts;
  if (options.replicas < experts || options.replicas % gpus != 0 || experts % options.groups != 0 ||
      gpus % options.nodes != 0) {
    throw Error(ExitCode::usage, str("--replicas ", options.replicas, " does not go: it must be at least the ", experts,
                                     " experts and a multiple of the ", gpus,
                                     " ranks; --groups must divide the experts and --nodes the ranks"));
  }
  std::vector<std::vector<int64_t>> slots;
  for (size_t l = 0; l < counts.layers(); ++l) {
    slots.push_back(moe::replicate_experts(
        counts.total(l),
        {.replicas = options.replicas, .groups = options.groups, .nodes = options.nodes, .gpus = gpus}));
  }
  return slots;
}

void write_plan(const std::string& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  if (!file.flush()) throw Error(ExitCode::environment, str("cannot write ", path, "; give another path"));
  std::fprintf(stderr, "written: %s\n", path.c_str());
}

std::string replica_plan(const train::TraceCounts& counts, int64_t gpus,
                         const std::vector<std::vector<int64_t>>& slots) {
  Json layers = Json::array();
  for (const std::vector<int64_t>& layer : slots) layers.push_back({{"expert_of_slot", layer}});
  return Json{{"version", 1}, {"ep_size", gpus}, {"num_experts", counts.header().experts}, {"layers", layers}}.dump() +
         "\n";
}

std::vector<Row> simulate_layouts(const Options& options, const train::TraceCounts& counts) {
  const train::TraceHeader& header = counts.header();
  std::vector<Row> rows;
  const auto add = [&](const std::string& name, const train::Layout& layout) {
    rows.push_back({name, layout.ranks, layout.ep_size, train::simulate(counts, layout)});
  };
  add("as traced", {.ranks = header.ranks, .ep_size = header.ep_size, .capacity_factor = header.capacity_factor});
  for (int64_t ep_size : layouts_to_try(options, header)) {
    const int64_t ranks = options.ranks > 0 ? options.ranks : std::max(ep_size, header.ranks / ep_size * ep_size);
    check_layout(header, ranks, ep_size);
    train::Layout layout{.ranks = ranks, .ep_size = ep_size, .capacity_factor = header.capacity_factor};
    add("consecutive experts", layout);
    if (!options.placement.empty()) {
      ModelConfig model;
      model.num_experts = header.experts;
      model.num_hidden_layers = static_cast<int64_t>(header.layers.size());
      layout.placement = train::read_placement(options.placement, model, ep_size);
      add("the given plan", layout);
    }
    layout.placement = train::plan_placement(counts, ep_size);
    add("spread by load", layout);
    if (options.replicas == 0 && !options.plan.empty()) write_plan(options.plan, moe::placement_json(layout.placement));
    if (options.replicas == 0) continue;
    const std::vector<std::vector<int64_t>> slots = replicate(options, counts, ep_size);
    rows.push_back(
        {str(options.replicas, " copies"), ep_size, ep_size, train::simulate_replicas(counts, ep_size, slots)});
    if (!options.plan.empty()) write_plan(options.plan, replica_plan(counts, ep_size, slots));
  }
  return rows;
}

struct Drops {
  double factor, rate, by_chance;
};

std::vector<Drops> simulate_capacities(const Options& options, const train::TraceCounts& counts) {
  const train::TraceHeader& header = counts.header();
  std::vector<Drops> drops;
  for (double factor : options.capacities) {
    const int64_t tokens = header.tokens() / header.granules;
    const double chance = train::chance_dropped({.tokens = tokens, .experts = header.experts, .slots = header.slots},
                                                moe::expert_capacity(tokens, header.slots, header.experts, factor));
    drops.push_back({factor, train::simulate(counts, {.capacity_factor = factor}).drop_rate, chance});
  }
  return drops;
}

void print_json(const train::TraceCounts& counts, const std::vector<Row>& rows, const std::vector<Drops>& drops) {
  Json layouts = Json::array(), capacities = Json::array(), loads = Json::array();
  for (const Row& row : rows) {
    layouts.push_back({{"layout", row.layout},
                       {"ranks", row.ranks},
                       {"ep_size", row.ep_size},
                       {"rows", row.result.rows_LR},
                       {"overload", row.result.overload},
                       {"step_overload", row.result.step_overload},
                       {"drop_rate", row.result.drop_rate},
                       {"step_seconds", row.result.step_seconds}});
  }
  for (const Drops& d : drops) {
    capacities.push_back({{"capacity_factor", d.factor}, {"drop_rate", d.rate}, {"drop_rate_by_chance", d.by_chance}});
  }
  for (size_t l = 0; l < counts.layers(); ++l) {
    loads.push_back({{"layer", counts.header().layers[l]},
                     {"tokens_per_expert", counts.total(l)},
                     {"tokens_by_source", counts.by_source(l)}});
  }
  const Json result = {{"steps", counts.steps()}, {"layers", loads}, {"layouts", layouts}, {"capacities", capacities}};
  std::printf("%s\n", result.dump().c_str());
}

int run(const Options& options) {
  std::string path = options.trace;
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) path += "/expert_trace.bin";
  if (!options.plan.empty() && options.ep_sizes.size() != 1) {
    throw Error(ExitCode::usage, "--plan is a plan for one number of ranks; give it with one --ep-size");
  }
  const train::TraceCounts counts(train::read_trace(path));
  const std::vector<Row> rows = simulate_layouts(options, counts);
  const std::vector<Drops> drops = simulate_capacities(options, counts);
  if (options.json) return print_json(counts, rows, drops), 0;
  std::printf(
      "%zu steps of %lld tokens, %lld experts, top-%lld; traced on %lld ranks with ep_size %lld: %.3f s a step\n\n",
      counts.steps(), static_cast<long long>(counts.header().tokens()), static_cast<long long>(counts.header().experts),
      static_cast<long long>(counts.header().slots), static_cast<long long>(counts.header().ranks),
      static_cast<long long>(counts.header().ep_size), counts.seconds());
  std::printf("layout                ranks  ep_size   fullest rank, of the mean:   dropped   a step\n");
  std::printf("                                        whole trace  step by step             takes\n");
  for (const Row& row : rows) {
    std::printf("%-20s  %5lld  %7lld   %8.3f x    %8.3f x   %7.2f %%  %7.3f s\n", row.layout.c_str(),
                static_cast<long long>(row.ranks), static_cast<long long>(row.ep_size), row.result.overload,
                row.result.step_overload, 100 * row.result.drop_rate, row.result.step_seconds);
  }
  for (const Drops& d : drops) {
    std::printf("%scapacity_factor %-6g drops %6.2f %% (chance %.2f %%)\n", &d == drops.data() ? "\n" : "", d.factor,
                100 * d.rate, 100 * d.by_chance);
  }
  std::printf(
      "\nRows are exact. Time is predicted: experts take the rows of the fullest rank x time per row of the trace,\n"
      "the rest is divided evenly among ranks as fast as the traced ones; new messages are not counted.\n");
  return 0;
}

}  // namespace

void add_experts_simulate(CommandLine& experts) {
  auto options = std::make_shared<Options>();
  CommandLine command =
      experts.add_subcommand("simulate", "other layouts, placements and capacities on a recorded routing");
  command.add_option("trace", options->trace, "expert_trace.bin, or the run that has it").required();
  command.add_option("--ep-size", options->ep_sizes, "ranks that together hold all experts; may be repeated")
      .positive();
  command.add_option("--ranks", options->ranks, "ranks in all (default: as few as ep_size allows)").positive();
  command.add_option("--capacity", options->capacities, "capacity factor to try; may be repeated").positive();
  command.add_option("--placement", options->placement, "a plan to try, as --plan writes it");
  command.add_option("--replicas", options->replicas, "copies of experts in all, by the method of EPLB").positive();
  command.add_option("--groups", options->groups, "groups of experts that stay on one node, with --replicas")
      .positive();
  command.add_option("--nodes", options->nodes, "nodes, with --replicas").positive();
  command.add_option("--plan", options->plan, "write the placement to this file, for parallel.expert_placement");
  command.add_flag("--json", options->json, "one JSON object on stdout");
  command.footer("Example: switchyard experts simulate runs/mine --ep-size 4 --plan plan.json");
  command.runs([options] { return run(*options); });
}

}  // namespace tools
