// switchyard experts RUN: how evenly the experts were used, beside what pure chance would give, and what it costs.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <memory>

#include "engine/config/origins.h"
#include "engine/core/error.h"
#include "tools/command.h"
#include "tools/experts_report.h"

namespace tools {

using namespace engine;

void read_experts_report(const std::string& run, ExpertsReport& report) {
  report.run = run;
  report.history = train::read_load_history(run + "/experts.jsonl");
  const std::string path = run + "/config.resolved.json";
  std::ifstream file(path, std::ios::binary);
  if (!file) throw Error(ExitCode::usage, str("cannot read ", path, "; give the directory of a run"));
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  report.config = parse_resolved(text, path);
  report.analysis = train::analyse_load(report.history, report.config);
}

namespace {

struct Options {
  std::string run, html, csv;
  bool json = false;
};

void write_file(const std::string& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  if (!file.flush()) throw Error(ExitCode::environment, str("cannot write ", path, "; give another path"));
  std::fprintf(stderr, "written: %s\n", path.c_str());
}

int run(const Options& options) {
  if (options.run.empty()) {
    throw Error(ExitCode::usage, "no run is given; use switchyard experts RUN, or switchyard experts simulate TRACE");
  }
  ExpertsReport report;
  read_experts_report(options.run, report);
  if (!options.html.empty()) write_file(options.html, experts_html(report));
  if (!options.csv.empty()) write_file(options.csv, experts_csv(report));
  if (options.json) {
    std::printf("%s\n", experts_json(report).c_str());
  } else if (options.html.empty() && options.csv.empty()) {
    std::fputs(experts_text(report).c_str(), stdout);
  } else {
    std::printf("%s\n", report.analysis.verdict.c_str());
  }
  return 0;
}

}  // namespace

void add_experts(CLI::App& app, Command& chosen) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("experts", "expert load of a run: evenness, cost, what to try");
  command->add_option("run", options->run, "run directory");
  command->add_option("--html", options->html, "write a page with charts to this file");
  command->add_option("--csv", options->csv, "write the counts to this file");
  command->add_flag("--json", options->json, "one JSON object on stdout");
  command->footer("Example: switchyard experts runs/quickstart --html load.html");
  add_experts_simulate(*command, chosen);
  command->callback([options, command, &chosen] {
    if (command->get_subcommands().empty()) chosen = [options] { return run(*options); };
  });
}

}  // namespace tools
