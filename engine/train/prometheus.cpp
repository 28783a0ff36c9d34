#include "engine/train/prometheus.h"

#include <cmath>
#include <utility>

#include "engine/config/json_reader.h"
#include "engine/core/error.h"

namespace engine::train {
namespace {

// A backslash, a quote and a line's end would end a label's value.
std::string escaped(const std::string& text) {
  std::string out;
  for (char c : text) out += c == '\n' ? "\\n" : c == '\\' || c == '"' ? std::string("\\") + c : std::string(1, c);
  return out;
}

std::string number(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "+Inf" : "-Inf";
  return number_text(value);
}

}  // namespace

void PrometheusText::gauge(const std::string& name, const std::string& help, double value, const Labels& labels) {
  const auto [place, is_new] = index_.try_emplace(name, metrics_.size());
  if (is_new) metrics_.push_back({name, help, {}});
  std::string list;
  for (const Labels* part : {&std::as_const(common_), &labels}) {
    for (const auto& [label, text] : *part) list += str(list.empty() ? "" : ",", label, "=\"", escaped(text), "\"");
  }
  if (!list.empty()) list = str("{", list, "}");
  metrics_[place->second].samples += str(name, list, " ", number(value), "\n");
}

std::string PrometheusText::text() const {
  std::string text;
  for (const Metric& metric : metrics_)
    text += str("# HELP ", metric.name, " ", metric.help, "\n# TYPE ", metric.name, " gauge\n", metric.samples);
  return text;
}

}  // namespace engine::train
