// switchyard report RUN...: loss, evaluation, speed, expert load and samples of runs on one page.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <optional>

#include "engine/config/json_reader.h"
#include "engine/core/error.h"
#include "tools/command.h"
#include "tools/command_line.h"
#include "tools/experts_report.h"
#include "tools/page.h"

namespace tools {
namespace {

using namespace engine;
using page::escape;
using train::print;
namespace fs = std::filesystem;

struct Options {
  std::vector<std::string> runs;
  std::string output = "report.html";
};

using Points = std::vector<std::pair<double, double>>;

// What a run has measured, as far as it is there.
struct Measured {
  std::string run;
  std::map<std::string, Points> metrics, bits_per_byte;  // by name; by evaluation set
  std::map<std::string, double> phases;                  // seconds a step, mean
  std::map<std::string, std::string> samples;            // text by file name
  std::optional<ExpertsReport> experts;
};

std::string read_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// Calls visit(line) for each whole line of a log.
template <class Visit>
void each_line(const std::string& path, Visit visit) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line) && !file.eof();) {
    visit(read_json(line, {.max_bytes = int64_t{1} << 26}, ExitCode::data));
  }
}

void read_metrics(const std::string& run, Measured& measured) {
  double lines = 0;
  each_line(run + "/metrics.jsonl", [&](const JsonValue& line) {
    const double step = line.at("step", ExitCode::data).number;
    for (const JsonValue::Member& member : line.members) {
      if (member.value.is_number()) measured.metrics[member.key].push_back({step, member.value.number});
    }
    const JsonValue* phases = line.find("phases");
    if (phases == nullptr) return;
    ++lines;
    for (const JsonValue::Member& phase : phases->members) measured.phases[phase.key] += phase.value.number;
  });
  for (auto& [name, seconds] : measured.phases) seconds /= lines;
  if (measured.metrics.empty()) {
    throw Error(ExitCode::usage, str("cannot read steps in ", run, "/metrics.jsonl; give the directory of a run"));
  }
}

Measured read_run(const std::string& run) {
  Measured measured;
  measured.run = run;
  read_metrics(run, measured);
  each_line(run + "/eval.jsonl", [&](const JsonValue& line) {
    const double step = line.at("step", ExitCode::data).number;
    for (const JsonValue& set : line.at("sets", ExitCode::data).items) {
      measured.bits_per_byte[set.at("set", ExitCode::data).string].push_back(
          {step, set.at("bpb", ExitCode::data).number});
    }
  });
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(run + "/samples", error)) {
    measured.samples[entry.path().filename().string()] = read_text(entry.path().string());
  }
  if (fs::exists(run + "/experts.jsonl", error)) read_experts_report(run, measured.experts.emplace());
  return measured;
}

// The mean of a stretch of steps, so that a curve shows the course and not the noise.
Points smoothed(const Points& points) {
  const size_t each = std::max<size_t>(1, points.size() / 120);
  Points result;
  for (size_t i = 0; i < points.size(); i += each) {
    const size_t end = std::min(points.size(), i + each);
    double sum = 0;
    for (size_t j = i; j < end; ++j) sum += points[j].second;
    result.push_back({points[end - 1].first, sum / static_cast<double>(end - i)});
  }
  return result;
}

std::string metric_chart(const std::vector<Measured>& runs, const std::string& metric, const std::string& title) {
  page::LineChart chart{.series = {}, .x = "step", .y = title, .floor = 0, .floor_name = ""};
  for (const Measured& run : runs) {
    const auto found = run.metrics.find(metric);
    if (found != run.metrics.end()) chart.series.push_back({run.run, smoothed(found->second)});
  }
  return chart.series.empty() ? "" : page::line_chart(chart);
}

std::string evaluation_part(const std::vector<Measured>& runs) {
  std::string html;
  page::LineChart chart{.series = {}, .x = "step", .y = "bits per byte", .floor = 0, .floor_name = ""};
  page::Table table{.header = {"run", "set", "step", "bits per byte"}, .rows = {}};
  for (const Measured& run : runs) {
    for (const auto& [set, points] : run.bits_per_byte) {
      chart.series.push_back({runs.size() == 1 ? set : run.run + " " + set, points});
      table.rows.push_back(
          {escape(run.run), escape(set), print("%.0f", points.back().first), print("%.4f", points.back().second)});
    }
  }
  if (chart.series.empty()) return "<h2>Evaluation</h2><p class=\"soft\">none yet</p>\n";
  return "<h2>Evaluation</h2>" + page::line_chart(chart) + page::table(table);
}

std::string speed_part(const std::vector<Measured>& runs) {
  std::string html = "<h2>Speed</h2>" + metric_chart(runs, "tokens_per_second", "tokens per second");
  page::Table table{.header = {"run", "phase", "ms a step", "share"}, .rows = {}};
  for (const Measured& run : runs) {
    double all = 0;
    for (const auto& [name, seconds] : run.phases) all += seconds;
    for (const auto& [name, seconds] : run.phases) {
      table.rows.push_back(
          {escape(run.run), escape(name), print("%.2f", 1e3 * seconds), print("%.1f %%", 100 * seconds / all)});
    }
  }
  return html + (table.rows.empty() ? "" : page::table(table));
}

std::string summary_part(const std::vector<Measured>& runs) {
  page::Table table{.header = {"run", "steps", "tokens", "loss, last steps", "tokens/s, median", "expert load"},
                    .rows = {}};
  for (const Measured& run : runs) {
    const Points& loss = run.metrics.at("loss");
    double sum = 0;
    const size_t last = std::max<size_t>(1, loss.size() / 10);
    for (size_t i = loss.size() - last; i < loss.size(); ++i) sum += loss[i].second;
    std::vector<double> speeds;
    for (const auto& [step, speed] : run.metrics.at("tokens_per_second")) speeds.push_back(speed);
    table.rows.push_back({escape(run.run), print("%.0f", loss.back().first),
                          print("%.0f", run.metrics.at("tokens").back().second),
                          print("%.4f", sum / static_cast<double>(last)), print("%.0f", train::percentile(speeds, 0.5)),
                          run.experts ? escape(run.experts->analysis.word) : "-"});
  }
  return page::table(table);
}

std::string samples_part(const Measured& run) {
  std::string html;
  for (const auto& [name, text] : run.samples) {
    html += "<h3>" + escape(name) + "</h3><pre>" + escape(text.substr(0, 20000)) + "</pre>\n";
  }
  return html;
}

int run(const Options& options) {
  std::vector<Measured> runs;
  for (const std::string& run : options.runs) runs.push_back(read_run(run));
  const std::string title = runs.size() == 1 ? "Report of " + runs[0].run : print("Report of %zu runs", runs.size());
  std::string body = "<h1>" + escape(title) + "</h1>" + summary_part(runs) + "<h2>Loss</h2>" +
                     metric_chart(runs, "loss", "training loss, nats per token") +
                     metric_chart(runs, "grad_norm", "norm of the gradient") +
                     metric_chart(runs, "aux_loss", "balance loss") + metric_chart(runs, "lr", "learning rate") +
                     evaluation_part(runs) + speed_part(runs);
  for (const Measured& run : runs) {
    if (run.experts) body += "<h1>Expert load of " + escape(run.run) + "</h1>" + experts_parts(*run.experts);
    if (!run.samples.empty()) body += "<h1>Samples of " + escape(run.run) + "</h1>" + samples_part(run);
  }
  std::ofstream file(options.output, std::ios::binary);
  file << page::document(title, body);
  if (!file.flush()) throw Error(ExitCode::environment, str("cannot write ", options.output, "; give another path"));
  std::printf("%s\n", options.output.c_str());
  return 0;
}

}  // namespace

void add_report(CommandLine& program) {
  auto options = std::make_shared<Options>();
  CommandLine command =
      program.add_subcommand("report", "loss, evaluation, speed, expert load and samples on one page");
  command.add_option("runs", options->runs, "run directories").required();
  command.add_option("-o,--output", options->output, "the page (default: report.html)");
  command.footer("Example: switchyard report runs/mine runs/before -o report.html");
  command.runs([options] { return run(*options); });
}

}  // namespace tools
