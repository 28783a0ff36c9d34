// The expert-load report as a page.
#include <algorithm>

#include "tools/experts_report.h"
#include "tools/page.h"

namespace tools {

using namespace engine;
using page::escape;
using train::LayerAnalysis;
using train::LoadAnalysis;
using train::print;

namespace {

long long number(int64_t n) {
  return static_cast<long long>(n);
}

// A value with its floor beside it.
std::string beside(double value, double floor, bool beyond) {
  return print("<span%s>%.3f</span> <span class=\"chance\">(%.3f)</span>", beyond ? " class=\"beyond\"" : "", value,
               floor);
}

std::string layer_table(const LoadAnalysis& a) {
  page::Table table{.header = {"layer", "max/mean (chance)", "MaxVio", "CV (chance)", "even use (chance)", "dead",
                               "drop (chance)", "fullest", "emptiest"},
                    .rows = {}};
  for (const LayerAnalysis& layer : a.layers) {
    const train::LayerLoad& load = layer.load;
    table.rows.push_back(
        {print("%lld", number(layer.window.layer)), beside(load.max_over_mean, load.max_by_chance, load.beyond_chance),
         print("%.3f", load.violation), beside(load.variation, load.variation_by_chance, load.beyond_chance),
         beside(load.entropy, load.entropy_by_chance, load.beyond_chance),
         load.dead > 0 ? print("<span class=\"beyond\">%lld</span>", number(load.dead)) : "0",
         print("%.1f %% <span class=\"chance\">(%.1f %%)</span>", 100 * layer.drop_rate, 100 * layer.drop_by_chance),
         print("%lld", number(load.fullest)), print("%lld", number(load.emptiest))});
  }
  return page::table(table);
}

std::string percentile_table(const LoadAnalysis& a) {
  page::Table table{.header = {"over layers", "p50", "p75", "p90", "p95"}, .rows = {}};
  const auto line = [&](const char* name, double train::LayerLoad::*value) {
    std::vector<double> values;
    for (const LayerAnalysis& layer : a.layers) values.push_back(layer.load.*value);
    std::vector<std::string> row{name};
    for (double share : {0.5, 0.75, 0.9, 0.95}) row.push_back(print("%.3f", train::percentile(values, share)));
    table.rows.push_back(row);
  };
  line("max/mean", &train::LayerLoad::max_over_mean);
  line("CV", &train::LayerLoad::variation);
  line("even use", &train::LayerLoad::entropy);
  return page::table(table);
}

std::string router_table(const LoadAnalysis& a) {
  page::Table table{.header = {"layer", "router entropy", "first weight", "aux loss", "z-loss", "bias",
                               "bits of source", "bits of evaluation set"},
                    .rows = {}};
  const auto bits = [](const train::Specialisation& s) {
    return s.of > 0 ? print("%.3f of %.2f <span class=\"chance\">(%.4f)</span>", s.bits, s.of, s.by_chance) : "-";
  };
  for (const LayerAnalysis& layer : a.layers) {
    std::string bias = "-";
    if (!layer.window.expert_bias.empty()) {
      const auto [low, high] = std::minmax_element(layer.window.expert_bias.begin(), layer.window.expert_bias.end());
      bias = print("%.3f to %.3f", *low, *high);
    }
    table.rows.push_back({print("%lld", number(layer.window.layer)), print("%.3f", layer.window.router_entropy),
                          print("%.3f", layer.window.first_weight), print("%.4f", layer.window.aux_loss),
                          print("%.3f", layer.window.z_loss), bias, bits(layer.by_source), bits(layer.by_evaluation)});
  }
  return page::table(table);
}

std::string rank_table(const LoadAnalysis& a) {
  page::Table table{
      .header = {"rank", "rows", "of the mean", "sent", "in experts", "exchanging", "waiting", "waiting, of the time"},
      .rows = {}};
  for (size_t r = 0; r < a.ranks.size(); ++r) {
    const train::RankWindow& rank = a.ranks[r].window;
    int64_t rows = 0;
    for (int64_t n : rank.rows) rows += n;
    table.rows.push_back({print("%zu", r), print("%lld", number(rows)), print("%.3f x", a.ranks[r].overload),
                          print("%.1f MB", static_cast<double>(rank.bytes_sent) * 1e-6),
                          print("%.2f s", rank.expert_seconds), print("%.2f s", rank.exchange_seconds),
                          print("%.2f s", rank.wait_seconds), print("%.1f %%", 100 * a.ranks[r].wait_share)});
  }
  page::Table by_layer{.header = {"layer", "fullest rank, mean over steps", "largest"}, .rows = {}};
  for (const LayerAnalysis& layer : a.layers) {
    by_layer.rows.push_back({print("%lld", number(layer.window.layer)), print("%.3f x", layer.window.mean_overload),
                             print("%.3f x", layer.window.largest_overload)});
  }
  return page::table(table) + page::table(by_layer);
}

std::vector<std::string> expert_names(size_t experts) {
  std::vector<std::string> names;
  for (size_t e = 0; e < experts; ++e) names.push_back(std::to_string(e));
  return names;
}

std::string load_map(const LoadAnalysis& a) {
  page::HeatMap map{.row_names = {},
                    .column_names = expert_names(a.layers[0].window.tokens_per_expert.size()),
                    .values = {},
                    .tips = {},
                    .columns = "expert"};
  for (const LayerAnalysis& layer : a.layers) {
    map.row_names.push_back(print("layer %lld", number(layer.window.layer)));
    double sum = 0;
    for (int64_t n : layer.window.tokens_per_expert) sum += static_cast<double>(n);
    std::vector<double>& values = map.values.emplace_back();
    std::vector<std::string>& tips = map.tips.emplace_back();
    for (size_t e = 0; e < layer.window.tokens_per_expert.size(); ++e) {
      const int64_t count = layer.window.tokens_per_expert[e];
      values.push_back(sum > 0 ? static_cast<double>(count) * static_cast<double>(map.column_names.size()) / sum : 0);
      tips.push_back(print("layer %lld, expert %zu: %.3f x its share\n%lld choices, mean probability %.4f",
                           number(layer.window.layer), e, values.back(), number(count), layer.window.probability[e]));
    }
  }
  return page::heat_map(map);
}

// Rows are sources or evaluation sets: how much more of a row goes to an expert than of all rows together.
std::string use_map(const std::vector<std::string>& names, const std::vector<std::vector<int64_t>>& counts_SE) {
  page::HeatMap map{.row_names = names,
                    .column_names = expert_names(counts_SE[0].size()),
                    .values = train::relative_use(counts_SE),
                    .tips = {},
                    .columns = "expert"};
  for (size_t s = 0; s < counts_SE.size(); ++s) {
    int64_t sum = 0;
    for (int64_t n : counts_SE[s]) sum += n;
    std::vector<std::string>& tips = map.tips.emplace_back();
    for (size_t e = 0; e < counts_SE[s].size(); ++e) {
      const double share = sum > 0 ? static_cast<double>(counts_SE[s][e]) / static_cast<double>(sum) : 0;
      tips.push_back(names[s] + print(", expert %zu: %.1f %% of its choices, %.2f x as much as of all\n%lld choices", e,
                                      100 * share, map.values[s][e], number(counts_SE[s][e])));
    }
  }
  return page::heat_map(map);
}

std::string source_maps(const ExpertsReport& report) {
  const std::vector<std::string>& sources = report.history.windows.back().sources;
  std::string html;
  if (sources.size() > 1) {
    html +=
        "<h2>Expert and data source</h2><p class=\"soft\">How many times as often a source goes to an expert as the "
        "data as a whole does.</p>" +
        page::heat_legend();
    for (const LayerAnalysis& layer : report.analysis.layers) {
      html += print("<h3>layer %lld: %.3f of %.3f bits</h3>", number(layer.window.layer), layer.by_source.bits,
                    layer.by_source.of) +
              use_map(sources, layer.window.tokens_by_source);
    }
  }
  if (report.analysis.evaluation == nullptr) return html;
  html += print("<h2>Expert and evaluation set</h2><p class=\"soft\">Of the evaluation after step %lld.</p>",
                number(report.analysis.evaluation->step)) +
          page::heat_legend();
  std::vector<std::string> sets;
  for (const train::EvaluationLoad& set : report.analysis.evaluation->sets) sets.push_back(set.set);
  for (const LayerAnalysis& layer : report.analysis.layers) {
    html += print("<h3>layer %lld: %.3f of %.3f bits</h3>", number(layer.window.layer), layer.by_evaluation.bits,
                  layer.by_evaluation.of) +
            use_map(sets, layer.tokens_by_evaluation);
  }
  return html;
}

std::string course(const ExpertsReport& report) {
  const LoadAnalysis& a = report.analysis;
  page::LineChart load{.series = {}, .x = "step", .y = "max/mean of each layer", .floor = 0, .floor_name = ""};
  page::LineChart dead{.series = {},
                       .x = "step",
                       .y = "experts without a token in a window",
                       .floor = 0,
                       .floor_name = "",
                       .whole = true};
  bool any_dead = false;
  for (size_t l = 0; l < a.layers.size(); ++l) {
    const std::string name = print("layer %lld", number(a.layers[l].window.layer));
    page::Series &loads = load.series.emplace_back(), &deads = dead.series.emplace_back();
    loads.name = deads.name = name;
    for (const train::LoadWindow& window : report.history.windows) {
      const train::LayerLoad measured = train::measure_load(window.layers[l].tokens_per_expert, 1, 1);
      loads.points.push_back({static_cast<double>(window.last_step), measured.max_over_mean});
      deads.points.push_back({static_cast<double>(window.last_step), static_cast<double>(measured.dead)});
      any_dead |= measured.dead > 0;
    }
  }
  const train::LayerWindow& last = report.history.windows.back().layers[0];
  load.floor = train::measure_load(last.tokens_per_expert, report.config.model.num_experts_per_tok,
                                   static_cast<int64_t>(a.layers.size()))
                   .max_by_chance;
  load.floor_name = "what chance gives at most in the last window";
  std::string html = "<h2>Over the run</h2>" + page::line_chart(load);
  if (any_dead) html += page::line_chart(dead);
  for (const LayerAnalysis& layer : a.layers) {
    for (const train::ExpertDeath& death : layer.deaths) {
      html += print("<p>layer %lld, expert %lld: no token %s</p>", number(layer.window.layer), number(death.expert),
                    death.step == 1 ? "ever" : print("since step %lld", number(death.step)).c_str());
    }
  }
  return html;
}

}  // namespace

std::string experts_parts(const ExpertsReport& report) {
  const LoadAnalysis& a = report.analysis;
  std::string html =
      "<div class=\"verdict " + a.word + "\"><b>" + a.word + "</b>" + escape(a.verdict.substr(a.word.size())) +
      print("<p class=\"soft\">Time at stake: %.1f %% of a step (", 100 * a.time_share) + escape(a.time_basis) + "). " +
      print("Steps %lld to %lld of %lld; %lld experts, top-%lld; %zu rank%s; experts take %.0f %% of a step.",
            number(a.first_step), number(a.last_step), number(report.history.windows.back().last_step),
            number(report.config.model.num_experts), number(report.config.model.num_experts_per_tok), a.ranks.size(),
            a.ranks.size() == 1 ? "" : "s", 100 * a.expert_share) +
      "</p></div>\n";
  html += "<h2>What to try</h2><ul>";
  for (const train::Advice& advice : a.advice) {
    html += "<li>" + escape(advice.suggestion) + "<br><span class=\"soft\">" + escape(advice.evidence) + "</span></li>";
  }
  html +=
      "</ul>\n<h2>Layers</h2><p class=\"soft\">In brackets what chance gives at most for as many tokens; "
      "<span class=\"beyond\">coloured</span>: beyond it.</p>" +
      layer_table(a) + percentile_table(a) + "<h2>Share of each expert</h2>" + page::heat_legend() + load_map(a) +
      course(report) + "<h2>Router</h2>" + router_table(a);
  if (a.ranks.size() > 1) html += "<h2>Ranks</h2>" + rank_table(a);
  html += source_maps(report) + "<h2>What the numbers are</h2><dl>";
  for (const Formula& formula : load_formulas()) {
    html += "<dt>" + escape(formula.name) + "</dt><dd>" + escape(formula.meaning) + "</dd>";
  }
  return html + "</dl>\n";
}

std::string experts_html(const ExpertsReport& report) {
  const std::string title = "Expert load of " + report.config.name;
  return page::document(
      title, "<h1>" + escape(title) + "</h1><p class=\"soft\">" + escape(report.run) + "</p>" + experts_parts(report));
}

}  // namespace tools
