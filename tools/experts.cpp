// switchyard experts RUN: how evenly the experts were used, beside what pure chance would give, and what it costs;
// which experts the tokens of chosen steps took.
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>

#include "engine/config/origins.h"
#include "engine/core/error.h"
#include "engine/core/thread_pool.h"
#include "engine/train/trace_replay.h"
#include "tools/command.h"
#include "tools/command_line.h"
#include "tools/experts_report.h"

namespace tools {

using namespace engine;

namespace {

Config config_of(const std::string& run) {
  const std::string path = run + "/config.resolved.json";
  std::ifstream file(path, std::ios::binary);
  if (!file) throw Error(ExitCode::usage, str("cannot read ", path, "; give the directory of a run"));
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  return parse_resolved(text, path);
}

}  // namespace

void read_experts_report(const std::string& run, ExpertsReport& report) {
  report.run = run;
  report.history = train::read_load_history(run + "/experts.jsonl");
  report.config = config_of(run);
  report.analysis = train::analyse_load(report.history, report.config);
}

namespace {

struct Options {
  std::string run, html, csv, output;
  std::vector<int64_t> trace;
  int threads = 0;
  bool json = false;
};

void write_file(const std::string& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  if (!file.flush()) throw Error(ExitCode::environment, str("cannot write ", path, "; give another path"));
  std::fprintf(stderr, "written: %s\n", path.c_str());
}

// Writes under another name first: a trace is there as a whole or not at all.
int trace(const Options& options) {
  const std::string path = options.output.empty() ? options.run + "/expert_trace.bin" : options.output;
  std::error_code error;
  if (std::filesystem::exists(path, error)) {
    throw Error(ExitCode::usage, str(path, " is there already, and nothing is overwritten; give another file with -o"));
  }
  ThreadPool pool(options.threads > 0 ? options.threads : available_processors());
  pool.make_current();
  const std::string unfinished = path + ".tmp";
  std::filesystem::remove(unfinished, error);
  const int64_t trained =
      train::replay_trace({.run = options.run,
                           .config = config_of(options.run),
                           .steps = options.trace,
                           .path = unfinished,
                           .say = [](const std::string& what) { std::fprintf(stderr, "%s\n", what.c_str()); }});
  std::filesystem::rename(unfinished, path, error);
  if (error) throw Error(ExitCode::environment, str("cannot write ", path, ": ", error.message()));
  std::printf("%s: %zu steps traced, %lld trained again\n", path.c_str(), options.trace.size(),
              static_cast<long long>(trained));
  return 0;
}

int run(const Options& options) {
  if (options.run.empty()) {
    throw Error(ExitCode::usage, "no run is given; use switchyard experts RUN, or switchyard experts simulate TRACE");
  }
  if (!options.trace.empty()) return trace(options);
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

void add_experts(CommandLine& program) {
  auto options = std::make_shared<Options>();
  CommandLine command = program.add_subcommand("experts", "expert load of a run: evenness, cost, what to try");
  command.add_option("run", options->run, "run directory");
  command.add_option("--html", options->html, "write a page with charts to this file");
  command.add_option("--csv", options->csv, "write the counts to this file");
  command.add_flag("--json", options->json, "one JSON object on stdout");
  const Option trace = command
                           .add_option("--trace", options->trace,
                                       "STEP,...: record which experts each token of these steps took, in place of a "
                                       "report; they are trained again from the checkpoints before them")
                           .separated_by(',')
                           .positive();
  command.add_option("-o,--output", options->output, "the trace (default: expert_trace.bin in the run)").needs(trace);
  command.add_option("--threads", options->threads, "threads for --trace (default: all processors)")
      .positive()
      .needs(trace);
  command.footer(
      "Examples: switchyard experts runs/quickstart --html load.html\n"
      "          switchyard experts runs/quickstart --trace 131,132 -o trace.bin");
  add_experts_simulate(command);
  command.runs([options] { return run(*options); });
}

}  // namespace tools
