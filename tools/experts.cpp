// switchyard experts RUN: how evenly the experts were used, beside what pure chance would give.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>

#include "engine/config/json_reader.h"
#include "engine/core/error.h"
#include "engine/train/load_report.h"
#include "tools/command.h"

namespace tools {
namespace {

using namespace engine;
using train::LayerLoad;

struct Options {
  std::string run;
  bool json = false;
};

struct Layer {
  int64_t number = 0, dropped = 0;
  std::vector<int64_t> counts;
  double entropy = 0, first_weight = 0;  // of the last line
};

struct Window {
  int64_t first_step = 0, last_step = 0;
  std::vector<Layer> layers;
};

// Sums the last quarter of the lines: what the router has become, not what it was at the start.
Window read_window(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw Error(ExitCode::usage, str("cannot read ", path, "; give the directory of a run with experts"));
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  if (lines.empty()) throw Error(ExitCode::usage, str(path, " is empty; train at least one step"));
  Window window;
  const size_t begin = lines.size() - std::max<size_t>(1, lines.size() / 4);
  for (size_t i = begin; i < lines.size(); ++i) {
    const JsonValue line = read_json(lines[i], {.max_bytes = int64_t{1} << 28}, ExitCode::data);
    window.last_step = line.at("step", ExitCode::data).integer;
    if (i == begin) window.first_step = window.last_step;
    const std::vector<JsonValue>& layers = line.at("layers", ExitCode::data).items;
    window.layers.resize(layers.size());
    for (size_t l = 0; l < layers.size(); ++l) {
      Layer& layer = window.layers[l];
      layer.number = layers[l].at("layer", ExitCode::data).integer;
      layer.dropped += layers[l].at("dropped", ExitCode::data).integer;
      layer.entropy = layers[l].at("router_entropy", ExitCode::data).number;
      layer.first_weight = layers[l].at("first_weight", ExitCode::data).number;
      const std::vector<JsonValue>& counts = layers[l].at("tokens_per_expert", ExitCode::data).items;
      layer.counts.resize(counts.size());
      for (size_t e = 0; e < counts.size(); ++e) layer.counts[e] += counts[e].integer;
    }
  }
  return window;
}

// Balanced, skewed or collapsed, by what it costs: the slowest expert sets the pace of expert parallelism, and an
// expert without tokens is capacity that learns nothing.
std::string verdict(const Window& window) {
  double worst = 0;
  int64_t worst_layer = 0, dead = 0;
  for (const Layer& layer : window.layers) {
    const LayerLoad load = train::measure_load(layer.counts);
    dead += load.dead;
    if (load.max_over_mean > worst) worst = load.max_over_mean, worst_layer = layer.number;
  }
  char text[200];
  const char* word = dead > 0 ? "collapsed" : worst > 2 ? "skewed" : "balanced";
  std::snprintf(text, sizeof(text),
                "%s: the fullest expert of the worst layer (%lld) takes %.2f x its share; %lld experts without tokens",
                word, static_cast<long long>(worst_layer), worst, static_cast<long long>(dead));
  return text;
}

void print_table(const Window& window) {
  std::printf("%s\n\nsteps %lld to %lld\n", verdict(window).c_str(), static_cast<long long>(window.first_step),
              static_cast<long long>(window.last_step));
  std::printf(
      "layer  max/mean (chance)   CV (chance)    even use  dead  dropped  first weight  share of each expert in %%\n");
  for (const Layer& layer : window.layers) {
    const LayerLoad load = train::measure_load(layer.counts);
    int64_t total = 0;
    for (int64_t count : layer.counts) total += count;
    std::printf("%5lld    %6.3f (%.3f)  %.3f (%.3f)     %5.3f  %4lld  %5.1f %%         %.3f  ",
                static_cast<long long>(layer.number), load.max_over_mean, load.chance_max, load.variation,
                load.chance_variation, load.entropy, static_cast<long long>(load.dead),
                total > 0 ? 100.0 * static_cast<double>(layer.dropped) / static_cast<double>(total) : 0.0,
                layer.first_weight);
    for (size_t e = 0; e < layer.counts.size() && e < 16; ++e) {
      std::printf("%s%.0f", e == 0 ? "" : " ",
                  total > 0 ? 100.0 * static_cast<double>(layer.counts[e]) / static_cast<double>(total) : 0.0);
    }
    std::printf("%s\n", layer.counts.size() > 16 ? " ..." : "");
  }
  std::printf(
      "\nmax/mean: tokens of the fullest expert over the mean; CV: standard deviation over the mean; even use:\n"
      "exp(entropy of the shares) / experts, 1 when even. Chance: what independent uniform choices of as many\n"
      "tokens would give, 1 + sqrt(2 E ln E / T) and sqrt(E / T).\n");
}

int run(const Options& options) {
  const Window window = read_window(options.run + "/experts.jsonl");
  if (!options.json) return print_table(window), 0;
  nlohmann::ordered_json layers = nlohmann::ordered_json::array();
  for (const Layer& layer : window.layers) {
    const LayerLoad load = train::measure_load(layer.counts);
    layers.push_back({{"layer", layer.number},
                      {"tokens_per_expert", layer.counts},
                      {"max_over_mean", load.max_over_mean},
                      {"max_over_mean_by_chance", load.chance_max},
                      {"variation", load.variation},
                      {"variation_by_chance", load.chance_variation},
                      {"even_use", load.entropy},
                      {"dead", load.dead},
                      {"dropped", layer.dropped},
                      {"router_entropy", layer.entropy},
                      {"first_weight", layer.first_weight}});
  }
  const nlohmann::ordered_json result = {{"verdict", verdict(window)},
                                         {"first_step", window.first_step},
                                         {"last_step", window.last_step},
                                         {"layers", layers}};
  std::printf("%s\n", result.dump().c_str());
  return 0;
}

}  // namespace

void add_experts(CLI::App& app, Command& chosen) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("experts", "expert load of a run");
  command->add_option("run", options->run, "run directory")->required();
  command->add_flag("--json", options->json, "one JSON object on stdout");
  command->footer("Example: switchyard experts runs/quickstart");
  command->callback([options, &chosen] { chosen = [options] { return run(*options); }; });
}

}  // namespace tools
