#include "engine/train/evaluate_requirement.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "engine/config/json_reader.h"
#include "engine/config/problems.h"
#include "engine/core/error.h"

namespace engine::train {
namespace {

std::string_view trimmed(std::string_view text) {
  while (text.starts_with(' ')) text.remove_prefix(1);
  while (text.ends_with(' ')) text.remove_suffix(1);
  return text;
}

[[noreturn]] void refuse(const std::string& text, const std::string& why) {
  throw Error(ExitCode::usage, str("--require \"", text, "\" ", why));
}

}  // namespace

const std::vector<std::string>& requirement_metrics() {
  static const std::vector<std::string> metrics = {"loss", "bpb", "perplexity", "tokens", "delta"};
  return metrics;
}

bool Requirement::holds(double measured) const {
  if (relation == "<") return measured < limit;
  if (relation == "<=") return measured <= limit;
  if (relation == ">") return measured > limit;
  return measured >= limit;
}

Requirement parse_requirement(const std::string& text) {
  Requirement requirement{.text = text, .set = {}, .metric = {}, .relation = {}};
  const size_t at = text.find_first_of("<>");
  if (at == std::string::npos) refuse(text, "has no < or >; write SET.METRIC<NUMBER, e.g. held_out.bpb<2.4");
  const size_t after = at + (text.compare(at + 1, 1, "=") == 0 ? 2 : 1);
  requirement.relation = text.substr(at, after - at);
  const std::string left(trimmed(std::string_view(text).substr(0, at)));
  const std::string_view right = trimmed(std::string_view(text).substr(after));
  const size_t dot = left.rfind('.');
  if (dot == std::string::npos || dot == 0)
    refuse(text, "names no set; write SET.METRIC<NUMBER, e.g. held_out.bpb<2.4");
  requirement.set = left.substr(0, dot);
  requirement.metric = left.substr(dot + 1);
  const std::vector<std::string>& metrics = requirement_metrics();
  if (std::find(metrics.begin(), metrics.end(), requirement.metric) == metrics.end()) {
    std::string list;
    for (const std::string& metric : metrics) list += (list.empty() ? "" : ", ") + metric;
    refuse(text, str("asks for \"", requirement.metric, "\" but a set has ", list));
  }
  const auto [end, error] = std::from_chars(right.data(), right.data() + right.size(), requirement.limit);
  if (error != std::errc() || end != right.data() + right.size() || !std::isfinite(requirement.limit))
    refuse(text, str("has \"", right, "\" where a number must stand, e.g. held_out.bpb<2.4"));
  return requirement;
}

std::string unmet_message(const Requirement& requirement, double measured) {
  return str(requirement.set, ".", requirement.metric, " is ", number_text(measured), " but must be ",
             requirement.relation, " ", number_text(requirement.limit));
}

}  // namespace engine::train
