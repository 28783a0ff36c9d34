// Requirements on an evaluation, for scripts: "held_out.bpb<2.4".
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace engine::train {

struct Requirement {
  std::string text;         // as given
  std::string set, metric;  // "held_out", "bpb"
  std::string relation;     // <, <=, > or >=
  double limit = 0;
  bool holds(double measured) const;
};

// The metrics there are, in the order in which they are printed.
const std::vector<std::string>& requirement_metrics();

// SET.METRIC<NUMBER; throws Error(usage) that says what is wrong with it.
Requirement parse_requirement(const std::string& text);

// What a requirement that does not hold is told: measured and required value.
std::string unmet_message(const Requirement& requirement, double measured);

}  // namespace engine::train
