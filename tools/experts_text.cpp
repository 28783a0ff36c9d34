// The expert-load report on a console, within 100 columns.
#include <algorithm>
#include <cmath>
#include <functional>

#include "tools/experts_report.h"

namespace tools {

using namespace engine;
using train::LayerAnalysis;
using train::LoadAnalysis;
using train::print;

namespace {

constexpr size_t kColumns = 100, kNameColumns = 14;

bool begins_character(char c) {
  return (static_cast<unsigned char>(c) & 0xC0) != 0x80;  // UTF-8
}

size_t columns_of(const std::string& text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), begins_character));
}

// The first characters of a name, without what a terminal would obey.
std::string shortened(const std::string& name) {
  std::string text;
  size_t columns = 0;
  for (char c : name) {
    if (begins_character(c) && ++columns > kNameColumns) break;
    text += static_cast<unsigned char>(c) < 32 || c == 127 ? ' ' : c;
  }
  return text;
}

std::string wrapped(const std::string& text, size_t indent, size_t first) {
  std::string result;
  size_t column = first;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find(' ', begin), text.size());
    if (column + (end - begin) >= kColumns && column > indent) {
      if (!result.empty() && result.back() == ' ') result.pop_back();
      result += "\n" + std::string(indent, ' ');
      column = indent;
    }
    result += text.substr(begin, end - begin);
    column += end - begin;
    if (end < text.size()) result += ' ', ++column;
    begin = end + 1;
  }
  return result + "\n";
}

// Eight heights from the smallest to the largest value, at most `most` of them.
std::string sparkline(const std::vector<double>& values, size_t most) {
  static const char* const kBlocks[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  if (values.empty()) return "";
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  std::string line;
  const size_t count = std::min(most, values.size());
  for (size_t i = 0; i < count; ++i) {
    const double value = values[count == 1 ? 0 : i * (values.size() - 1) / (count - 1)];
    const double height = *high - *low > 0.02 ? (value - *low) / (*high - *low) : 0;
    line += kBlocks[std::min<size_t>(7, static_cast<size_t>(height * 8))];
  }
  return line;
}

long long number(int64_t n) {
  return static_cast<long long>(n);
}

std::string layer_table(const ExpertsReport& report) {
  const LoadAnalysis& a = report.analysis;
  std::string text =
      "layer  max/mean (chance)  MaxVio      CV (chance)  even use (chance)  dead    drop (chance)  so far\n";
  for (size_t l = 0; l < a.layers.size(); ++l) {
    const LayerAnalysis& layer = a.layers[l];
    const train::LayerLoad& load = layer.load;
    std::vector<double> course;
    for (const train::LoadWindow& window : report.history.windows) {
      course.push_back(train::measure_load(window.layers[l].tokens_per_expert, 1, 1).max_over_mean);
    }
    text += print("%5lld  %7.3f%c (%6.3f)  %6.3f  %6.3f (%6.3f)    %5.3f  (%6.3f)  %4lld  %5.1f%% (%4.1f%%)  ",
                  number(layer.window.layer), load.max_over_mean, load.beyond_chance ? '*' : ' ', load.max_by_chance,
                  load.violation, load.variation, load.variation_by_chance, load.entropy, load.entropy_by_chance,
                  number(load.dead), 100 * layer.drop_rate, 100 * layer.drop_by_chance) +
            sparkline(course, 8) + "\n";
  }
  return text + "(* beyond what chance gives for as many tokens)\n";
}

std::string percentile_table(const LoadAnalysis& a) {
  std::string text = "\nover layers      p50     p75     p90     p95\n";
  const auto line = [&](const char* name, double train::LayerLoad::*value) {
    std::vector<double> values;
    for (const LayerAnalysis& layer : a.layers) values.push_back(layer.load.*value);
    text += print("%-12s", name);
    for (double share : {0.5, 0.75, 0.9, 0.95}) text += print("%8.3f", train::percentile(values, share));
    text += "\n";
  };
  line("max/mean", &train::LayerLoad::max_over_mean);
  line("CV", &train::LayerLoad::variation);
  line("even use", &train::LayerLoad::entropy);
  return text;
}

std::string router_table(const LoadAnalysis& a) {
  std::string text = "\nlayer  entropy  first weight  aux loss   z-loss  bias              bits of source (chance)\n";
  for (const LayerAnalysis& layer : a.layers) {
    std::string bias = "-";
    if (!layer.window.expert_bias.empty()) {
      const auto [low, high] = std::minmax_element(layer.window.expert_bias.begin(), layer.window.expert_bias.end());
      bias = print("%.3f to %.3f", *low, *high);
    }
    text +=
        print("%5lld  %7.3f  %12.3f  %8.4f  %7.3f  %-16s  ", number(layer.window.layer), layer.window.router_entropy,
              layer.window.first_weight, layer.window.aux_loss, layer.window.z_loss, bias.c_str());
    text += layer.by_source.of > 0
                ? print("%.3f of %.3f (%.4f)\n", layer.by_source.bits, layer.by_source.of, layer.by_source.by_chance)
                : "one source\n";
  }
  return text;
}

std::string rank_table(const LoadAnalysis& a) {
  if (a.ranks.size() < 2) return "";
  std::string text = "\nrank        rows  of mean     sent  in experts  exchanging  waiting   of the time\n";
  for (size_t r = 0; r < a.ranks.size(); ++r) {
    int64_t rows = 0;
    for (int64_t n : a.ranks[r].window.rows) rows += n;
    const train::RankWindow& rank = a.ranks[r].window;
    text += print("%4zu  %10lld  %6.3fx  %5.0f MB  %8.2f s  %8.2f s  %5.2f s  %10.1f %%\n", r, number(rows),
                  a.ranks[r].overload, static_cast<double>(rank.bytes_sent) * 1e-6, rank.expert_seconds,
                  rank.exchange_seconds, rank.wait_seconds, 100 * a.ranks[r].wait_share);
  }
  text += "step by step the fullest rank of a layer has, of the mean:";
  for (const LayerAnalysis& layer : a.layers) {
    text += print(" %.2f (%.2f)", layer.window.mean_overload, layer.window.largest_overload);
  }
  return text + "  mean (largest), by layer\n";
}

// A row of a map: one character for each expert, 80 to a line.
std::string map_row(const std::string& name, const std::vector<double>& relative) {
  std::string line = "  " + name + std::string(kNameColumns - std::min(kNameColumns, columns_of(name)), ' ') + "|";
  for (size_t e = 0; e < relative.size(); ++e) {
    const double r = relative[e];
    if (e > 0 && e % 80 == 0) line += "|\n" + std::string(2 + kNameColumns, ' ') + "|";
    line += r == 0 ? ' ' : r < 0.5 ? '.' : r < 0.9 ? '-' : r <= 1.1 ? '=' : r <= 1.5 ? '+' : r <= 2 ? '#' : '@';
  }
  return line + "|\n";
}

std::string share_map(const LoadAnalysis& a) {
  std::string text =
      "\nshare of each expert: blank 0  . below 0.5  - below 0.9  = about 1  + to 1.5  # to 2  @ above 2\n";
  for (const LayerAnalysis& layer : a.layers) {
    double mean = 0;
    for (int64_t n : layer.window.tokens_per_expert) mean += static_cast<double>(n);
    mean = std::max(1.0, mean) / static_cast<double>(layer.window.tokens_per_expert.size());
    std::vector<double> relative;
    for (int64_t n : layer.window.tokens_per_expert) relative.push_back(static_cast<double>(n) / mean);
    text += map_row(print("layer %lld", number(layer.window.layer)), relative);
  }
  return text;
}

// Which experts each source or evaluation set goes to, in the layer where the expert tells most about it.
std::string use_map(const LoadAnalysis& a, const char* what, const std::vector<std::string>& names,
                    train::Specialisation LayerAnalysis::*bits,
                    const std::function<const std::vector<std::vector<int64_t>>&(const LayerAnalysis&)>& counts_of) {
  if (names.size() < 2) return "";
  const LayerAnalysis* most = &a.layers[0];
  for (const LayerAnalysis& layer : a.layers) {
    if ((layer.*bits).bits > (most->*bits).bits) most = &layer;
  }
  const train::Specialisation& told = most->*bits;
  std::string text = print("\nrelative use by %s, layer %lld (%.3f of %.3f bits, chance %.4f)\n", what,
                           number(most->window.layer), told.bits, told.of, told.by_chance);
  const std::vector<std::vector<double>> use_SE = train::relative_use(counts_of(*most));
  for (size_t s = 0; s < names.size(); ++s) text += map_row(shortened(names[s]), use_SE[s]);
  return text;
}

std::string use_maps(const ExpertsReport& report) {
  const LoadAnalysis& a = report.analysis;
  std::string text = use_map(
      a, "data source", report.history.windows.back().sources, &LayerAnalysis::by_source,
      [](const LayerAnalysis& layer) -> const auto& { return layer.window.tokens_by_source; });
  if (a.evaluation == nullptr) return text;
  std::vector<std::string> sets;
  for (const train::EvaluationLoad& set : a.evaluation->sets) sets.push_back(set.set);
  return text + use_map(
                    a, "evaluation set", sets, &LayerAnalysis::by_evaluation,
                    [](const LayerAnalysis& layer) -> const auto& { return layer.tokens_by_evaluation; });
}

std::string death_lines(const LoadAnalysis& a) {
  std::string text;
  for (const LayerAnalysis& layer : a.layers) {
    for (size_t i = 0; i < layer.deaths.size() && i < 8; ++i) {
      const train::ExpertDeath& death = layer.deaths[i];
      text += print("dead: layer %lld expert %lld, no token %s", number(layer.window.layer), number(death.expert),
                    death.step == 1 ? "ever\n" : print("since step %lld\n", number(death.step)).c_str());
    }
    if (layer.deaths.size() > 8) text += print("      ... and %zu more\n", layer.deaths.size() - 8);
  }
  return text;
}

}  // namespace

std::string experts_text(const ExpertsReport& report) {
  const LoadAnalysis& a = report.analysis;
  const ModelConfig& model = report.config.model;
  std::string text = wrapped(a.verdict, 2, 0) + "\n";
  text += print("steps %lld to %lld of %lld; %lld experts, top-%lld; %zu rank%s; experts take %.0f %% of a step\n\n",
                number(a.first_step), number(a.last_step), number(report.history.windows.back().last_step),
                number(model.num_experts), number(model.num_experts_per_tok), a.ranks.size(),
                a.ranks.size() == 1 ? "" : "s", 100 * a.expert_share);
  text += layer_table(report) + percentile_table(a) + router_table(a) + rank_table(a) + share_map(a) +
          use_maps(report) + death_lines(a);
  text += print("\ntime at stake: %.1f %% of a step\n  ", 100 * a.time_share) + wrapped("(" + a.time_basis + ")", 3, 2);
  text += "\nwhat to try\n";
  for (const train::Advice& advice : a.advice) {
    text += wrapped("- " + advice.evidence + ": " + advice.suggestion, 2, 0);
  }
  text += "\n";
  for (const Formula& formula : load_formulas()) {
    text += print("%-15s", formula.name) + wrapped(formula.meaning, 15, 15);
  }
  return text;
}

}  // namespace tools
