// The expert-load report for scripts.
#include <nlohmann/json.hpp>

#include "engine/core/error.h"
#include "tools/experts_report.h"

namespace tools {

using namespace engine;
using Json = nlohmann::ordered_json;
using train::LayerAnalysis;
using train::LoadAnalysis;

namespace {

Json specialisation_json(const train::Specialisation& s) {
  return {{"bits", s.bits}, {"of", s.of}, {"by_chance", s.by_chance}};
}

Json layer_json(const LayerAnalysis& layer) {
  const train::LayerLoad& load = layer.load;
  Json deaths = Json::array();
  for (const train::ExpertDeath& death : layer.deaths)
    deaths.push_back({{"expert", death.expert}, {"step", death.step}});
  return {{"layer", layer.window.layer},
          {"tokens", layer.window.tokens},
          {"tokens_per_expert", layer.window.tokens_per_expert},
          {"tokens_by_source", layer.window.tokens_by_source},
          {"max_over_mean", load.max_over_mean},
          {"max_over_mean_by_chance", load.max_by_chance},
          {"min_over_mean", load.min_over_mean},
          {"min_over_mean_by_chance", load.min_by_chance},
          {"max_violation", load.violation},
          {"mean_violation", load.mean_violation},
          {"variation", load.variation},
          {"variation_by_chance", load.variation_by_chance},
          {"variation_expected", load.variation_expected},
          {"even_use", load.entropy},
          {"even_use_by_chance", load.entropy_by_chance},
          {"beyond_chance", load.beyond_chance},
          {"fullest", load.fullest},
          {"emptiest", load.emptiest},
          {"dead", load.dead},
          {"deaths", deaths},
          {"starved", layer.starved},
          {"dropped", layer.window.dropped},
          {"drop_rate", layer.drop_rate},
          {"drop_rate_by_chance", layer.drop_by_chance},
          {"probability", layer.window.probability},
          {"router_entropy", layer.window.router_entropy},
          {"first_weight", layer.window.first_weight},
          {"aux_loss", layer.window.aux_loss},
          {"z_loss", layer.window.z_loss},
          {"expert_bias", layer.window.expert_bias},
          {"overload", {layer.window.mean_overload, layer.window.largest_overload}},
          {"specialisation", specialisation_json(layer.by_source)},
          {"specialisation_by_evaluation", specialisation_json(layer.by_evaluation)}};
}

Json percentiles(const LoadAnalysis& a, double train::LayerLoad::*value) {
  std::vector<double> values;
  for (const LayerAnalysis& layer : a.layers) values.push_back(layer.load.*value);
  return {{"p50", train::percentile(values, 0.5)},
          {"p75", train::percentile(values, 0.75)},
          {"p90", train::percentile(values, 0.9)},
          {"p95", train::percentile(values, 0.95)}};
}

// A field of a CSV file; what a spreadsheet would take for a formula is only text.
std::string csv_field(const std::string& text) {
  std::string quoted = "\"";
  if (!text.empty() && std::string("=+-@\t").find(text[0]) != std::string::npos) quoted += '\'';
  for (const char c : text) {
    quoted += c;
    if (c == '"') quoted += c;
  }
  return quoted + "\"";
}

}  // namespace

std::string experts_json(const ExpertsReport& report) {
  const LoadAnalysis& a = report.analysis;
  Json layers = Json::array(), ranks = Json::array(), advice = Json::array(), course = Json::array();
  for (const LayerAnalysis& layer : a.layers) layers.push_back(layer_json(layer));
  for (const train::RankAnalysis& rank : a.ranks) {
    ranks.push_back({{"rows", rank.window.rows},
                     {"overload", rank.overload},
                     {"bytes_sent", rank.window.bytes_sent},
                     {"expert_seconds", rank.window.expert_seconds},
                     {"exchange_seconds", rank.window.exchange_seconds},
                     {"wait_seconds", rank.window.wait_seconds},
                     {"wait_share", rank.wait_share}});
  }
  for (const train::Advice& one : a.advice) {
    advice.push_back({{"evidence", one.evidence}, {"suggestion", one.suggestion}});
  }
  Json evaluation;
  if (a.evaluation != nullptr) evaluation = Json::parse(train::to_json(*a.evaluation));
  for (const train::LoadWindow& window : report.history.windows) {
    Json load = Json::array(), dead = Json::array();
    for (const train::LayerWindow& layer : window.layers) {
      const train::LayerLoad measured = train::measure_load(layer.tokens_per_expert, 1, 1);
      load.push_back(measured.max_over_mean);
      dead.push_back(measured.dead);
    }
    course.push_back({{"step", window.last_step}, {"max_over_mean", load}, {"dead", dead}});
  }
  return Json{{"verdict", a.word},
              {"sentence", a.verdict},
              {"first_step", a.first_step},
              {"last_step", a.last_step},
              {"worst_layer", a.layers[a.worst].window.layer},
              {"layers_beyond_chance", a.beyond_chance},
              {"dead", a.dead},
              {"drop_rate", a.drop_rate},
              {"drop_rate_by_chance", a.drop_by_chance},
              {"expert_share", a.expert_share},
              {"time_share", a.time_share},
              {"time_basis", a.time_basis},
              {"percentiles",
               {{"max_over_mean", percentiles(a, &train::LayerLoad::max_over_mean)},
                {"variation", percentiles(a, &train::LayerLoad::variation)},
                {"even_use", percentiles(a, &train::LayerLoad::entropy)}}},
              {"sources", report.history.windows.back().sources},
              {"layers", layers},
              {"ranks", ranks},
              {"evaluation", evaluation},
              {"course", course},
              {"advice", advice}}
      .dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string experts_csv(const ExpertsReport& report) {
  std::string csv = "kind,first_step,last_step,layer,expert,rank,source,tokens\n";
  const std::vector<train::LayerWindow>& layers = report.history.windows[0].layers;
  for (const train::LoadWindow& window : report.history.windows) {
    const std::string steps = str(window.first_step, ",", window.last_step, ",");
    for (size_t l = 0; l < layers.size(); ++l) {
      const train::LayerWindow& layer = window.layers[l];
      for (size_t e = 0; e < layer.tokens_per_expert.size(); ++e) {
        for (size_t s = 0; s < layer.tokens_by_source.size(); ++s) {
          csv += str("source,", steps, layer.layer, ",", e, ",,", csv_field(window.sources[s]), ",",
                     layer.tokens_by_source[s][e], "\n");
        }
      }
      for (size_t r = 0; r < window.ranks.size(); ++r) {
        csv += str("rank,", steps, layer.layer, ",,", r, ",,", window.ranks[r].rows[l], "\n");
      }
    }
  }
  for (const train::EvaluationWindow& evaluation : report.history.evaluations) {
    for (const train::EvaluationLoad& set : evaluation.sets) {
      for (size_t l = 0; l < layers.size(); ++l) {
        for (size_t e = 0; e < set.tokens_per_expert[l].size(); ++e) {
          csv += str("evaluation,", evaluation.step, ",", evaluation.step, ",", layers[l].layer, ",", e, ",,",
                     csv_field(set.set), ",", set.tokens_per_expert[l][e], "\n");
        }
      }
    }
  }
  return csv;
}

}  // namespace tools
