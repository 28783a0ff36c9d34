// The expert-load report of one run, in each of its forms.
#pragma once

#include <string>

#include "engine/config/config.h"
#include "engine/train/load_analysis.h"
#include "tools/command_line.h"

namespace tools {

struct ExpertsReport {
  std::string run;  // its directory
  engine::Config config;
  engine::train::LoadHistory history;
  engine::train::LoadAnalysis analysis;  // of history
};
// Reads experts.jsonl and config.resolved.json of a run.
void read_experts_report(const std::string& run, ExpertsReport& report);

std::string experts_text(const ExpertsReport& report);  // within 100 columns
std::string experts_json(const ExpertsReport& report);  // one object
// Long form, told apart by `kind`. source: choices by window, layer, expert and data source; rank: rows by window,
// layer and rank; evaluation: choices by evaluation, layer, expert and set, which stands in the column `source`.
std::string experts_csv(const ExpertsReport& report);
std::string experts_html(const ExpertsReport& report);   // a page of its own
std::string experts_parts(const ExpertsReport& report);  // the same below <h2>, as part of a page

// `experts simulate`, a command below `experts`.
void add_experts_simulate(CommandLine& experts);

// What every number means: its name and its formula.
struct Formula {
  const char *name, *meaning;
};
const std::vector<Formula>& load_formulas();

}  // namespace tools
