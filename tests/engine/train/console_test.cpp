#include "engine/train/console.h"

#include <algorithm>
#include <cstdlib>
#include <thread>

#include "engine/train/heartbeat.h"
#include "tests/support/compare.h"
#include "tests/support/temporary_directory.h"

namespace {

using namespace engine::train;

StepReport some_step() {
  StepReport s;
  s.result.step = 50;
  s.result.loss = 5.02134;
  s.result.loss_z = -0.4;
  s.result.aux_loss = 1.0321;
  s.result.grad_norm = 0.812;
  s.result.lr = 1.5e-3;
  s.result.seconds = 2;
  s.result.phases = {.data = 0.02, .forward = 0.6, .backward = 1.08, .comm = 0.2, .optimizer = 0.1};
  s.bits_per_byte = 7.2443;
  s.tokens_per_second = 26123;
  s.seconds_left = 92;
  s.has_experts = true;
  s.worst_load = 1.38;
  s.worst_layer = 2;
  return s;
}

EvaluationReport some_evaluation() {
  EvaluationReport report;
  report.step = 100;
  const auto add = [&](const char* set, double bits, double three, double five) {
    report.results.push_back({.set = set, .loss = bits * 0.6931471805599453, .tokens = 1000, .bytes = 1000});
    report.baselines.push_back({three, five});
  };
  add("held_out", 2.553, 3.021, 2.411);
  add("cpp", 2.31, 2.9, 2.3);
  add("my own", 2.8, 3.1, 2.6);
  add("ood:perl", 4.1, 4.2, 4.3);
  report.history.add(50, 2.7);
  report.history.add(100, 2.553);
  return report;
}

// Everything a console has written.
class Output {
 public:
  Output() : file_(std::tmpfile()) {}
  ~Output() { std::fclose(file_); }
  std::FILE* file() { return file_; }
  std::string text() {
    std::fflush(file_);
    std::string text(static_cast<size_t>(std::ftell(file_)), '\0');
    std::rewind(file_);
    text.resize(std::fread(text.data(), 1, text.size(), file_));
    return text;
  }

 private:
  std::FILE* file_;
};

ConsoleStyle style_of(ConsoleStyle::Progress progress, bool color = false) {
  return {.progress = progress, .color = color, .verbosity = 0, .heartbeat_seconds = 0.02};
}

}  // namespace

TEST_CASE("console: the table of steps fits the width and leaves out the least important") {
  const StepReport step = some_step();
  const auto both = [&](int width) { return step_header(step, width) + "\n" + step_row(step, width) + "\n"; };
  CHECK(both(200) ==
        "   step    loss    (z)    bpb   norm       lr   tok/s data  fwd  bwd comm  opt    load max/mean    aux\n"
        "     50  5.0213 (-0.4)  7.244   0.81  1.5e-03   26.1k   1%  30%  54%  10%   5%   1.38 (layer 2)  1.032\n");
  CHECK(both(80) ==
        "   step    loss    bpb   norm   tok/s data  fwd  bwd comm  opt    load max/mean\n"
        "     50  5.0213  7.244   0.81   26.1k   1%  30%  54%  10%   5%   1.38 (layer 2)\n");
  CHECK(both(40) ==
        "   step    loss   tok/s    load max/mean\n"
        "     50  5.0213   26.1k   1.38 (layer 2)\n");
  for (int width = 23; width < 220; ++width) {
    INFO(width);
    CHECK(static_cast<int>(step_header(step, width).size()) <= width);
    CHECK(step_row(step, width).size() == step_header(step, width).size());
  }
  StepReport dense = step;
  dense.has_experts = false;
  CHECK(step_header(dense, 200).find("load") == std::string::npos);
  StepReport dropping = step;
  dropping.may_drop = true, dropping.dropped_share = 0.0123;
  CHECK(step_row(dropping, 80).ends_with("1.38 (layer 2)  1.2 %"));
  StepReport first = step;  // without what is only known later
  first.result.loss_z.reset();
  CHECK(step_row(first, 200).size() == step_header(first, 200).size());
}

TEST_CASE("console: elsewhere a step is key=value") {
  CHECK(step_fields(some_step()) ==
        "step=50 loss=5.0213 loss_z=-0.4 bpb=7.2443 aux_loss=1.0321 grad_norm=0.8120 lr=1.500e-03 "
        "tokens_per_second=26123 data=0.010 forward=0.300 backward=0.540 comm=0.100 optimizer=0.050 "
        "load_max_over_mean=1.38 load_layer=2 eta_seconds=92");
  CHECK(progress_fields({.step = 3, .last_step = 9, .bits_per_byte = 2, .tokens_per_second = 7, .seconds_left = 5}) ==
        "step=3 of=9 bpb=2.0000 tokens_per_second=7 eta_seconds=5");
  CHECK(progress_fields({}) == "step=0");
}

TEST_CASE("console: the bar fits the width") {
  const ProgressReport progress{
      .step = 292, .last_step = 600, .bits_per_byte = 2.41, .tokens_per_second = 26300, .seconds_left = 92};
  CHECK(progress_bar(progress, 79) ==
        "[################------------------] 292/600  2.410 bpb  26.3k tok/s  eta 1m32s");
  CHECK(
      progress_bar(progress, 200) ==
      "[###################---------------------] 292/600  2.410 bpb  26.3k tok/s  eta 1m32s   Ctrl-C saves and stops");
  for (int width = 0; width < 220; ++width) {
    INFO(width);
    const std::string bar = progress_bar(progress, width);
    CHECK(static_cast<int>(bar.size()) <= width);
    if (width >= 50) CHECK(bar.find("292/600  2.410 bpb  26.3k tok/s  eta 1m32s") != std::string::npos);
  }
  CHECK(progress_bar({.step = 5, .bits_per_byte = 2, .tokens_per_second = 10}, 40) == "step 5  2.000 bpb  10 tok/s");
  CHECK(progress_bar({.step = 600, .last_step = 600}, 50).starts_with("[#"));
}

TEST_CASE("console: an evaluation names every set, its baselines and how it stands") {
  EvaluationReport report = some_evaluation();
  CHECK(evaluation_text(report, 80) ==
        "held_out 2.553 (3-gram 3.021, 5-gram 2.411) bits/byte\n"
        "          cpp 2.310 (3-gram 2.900, 5-gram 2.300)\n"
        "          my own 2.800 (3-gram 3.100, 5-gram 2.600)\n"
        "          ood:perl 4.100 (3-gram 4.200, 5-gram 4.300)   new best");
  CHECK(evaluation_fields(report) ==
        "eval step=100 held_out=2.5530 held_out.3-gram=3.0210 held_out.5-gram=2.4110 cpp=2.3100 cpp.3-gram=2.9000 "
        "cpp.5-gram=2.3000 \"my own\"=2.8000 \"my own\".3-gram=3.1000 \"my own\".5-gram=2.6000 ood:perl=4.1000 "
        "ood:perl.3-gram=4.2000 ood:perl.5-gram=4.3000 best=2.5530 best_step=100 mark=new_best");
  report.baselines.clear();
  for (int i = 1; i <= 3; ++i) {
    report.history.add(100 + i, 2.6);
    CHECK(evaluation_text(report, 200)
              .ends_with(i < 3 ? "best 2.553 at step 100"
                               : "stalled: 3 evaluations without a new best, best 2.553 at step 100"));
  }
  CHECK(evaluation_fields(report).ends_with("best=2.5530 best_step=100 mark=stalled"));
}

TEST_CASE("console: the history of evaluations is read back, also behind a line that was cut") {
  const test::TemporaryDirectory directory;
  const std::string path = directory.write(
      "eval.jsonl",
      "{\"step\": 10, \"sets\": [{\"set\": \"held_out\", \"bpb\": 3.5}, {\"set\": \"a\", \"bpb\": 1}]}\n"
      "{\"step\": 20, \"sets\": [{\"set\": \"held_out\", \"bpb\": 3}]}\n"
      "{\"step\": 30, \"sets\": [{\"set\": \"ood:x\", \"bpb\": 1}]}\n"
      "{\"step\": 40, \"sets\": [{\"set\": \"held_out\", \"bpb\": 3.25}]}\n"
      "{\"step\": 50, \"se");
  const EvaluationHistory history = EvaluationHistory::read(path);
  CHECK(history.count() == 3);
  CHECK(history.best() == 3);
  CHECK(history.best_step() == 20);
  CHECK(history.since_best() == 1);
  CHECK(EvaluationHistory::read(path + ".none").count() == 0);
  CHECK(progress_mark({}) == "");
}

TEST_CASE("console: lines without colour, a bar that is taken away, colour where it is asked for") {
  Output lines, bar, colored, none, quiet;
  using Progress = ConsoleStyle::Progress;
  const auto talk = [](Console& console) {
    console.line("run", "here");
    console.detail("more", "only with -v");
    console.progress({.step = 1, .last_step = 2, .bits_per_byte = 8, .tokens_per_second = 10, .seconds_left = 1});
    console.step(some_step());
    console.warning("mind the gap");
    EvaluationReport report = some_evaluation();
    report.baselines.clear();
    console.evaluation(report);
    console.activity("saving");
  };
  for (auto& [output, style] : {std::pair<Output&, ConsoleStyle>{lines, style_of(Progress::lines)},
                                {bar, style_of(Progress::bar)},
                                {colored, style_of(Progress::bar, true)},
                                {none, style_of(Progress::none)},
                                {quiet, ConsoleStyle{.progress = Progress::bar, .verbosity = -1}}}) {
    Console console(style, output.file());
    talk(console);
  }
  CHECK(lines.text() == "run       here\n" + step_fields(some_step()) + "\nwarning: mind the gap\n" + [] {
    EvaluationReport report = some_evaluation();
    report.baselines.clear();
    return evaluation_fields(report) + "\n";
  }());
  const std::string with_bar = bar.text();
  CHECK(with_bar.find("\r[") != std::string::npos);
  CHECK(with_bar.find("\rsaving\033[K") != std::string::npos);
  CHECK(with_bar.ends_with("\r\033[K"));  // nothing is left for the shell's prompt to stand beside
  CHECK(with_bar.find("\033[3") == std::string::npos);
  CHECK(colored.text().find("\033[33mwarning:\033[0m mind the gap") != std::string::npos);
  CHECK(none.text() ==
        "run       here\nwarning: mind the gap\n  eval    held_out 2.553 bits/byte   cpp 2.310   "
        "my own 2.800   ood:perl 4.100\n          new best\n");
  CHECK(quiet.text() == "warning: mind the gap\n");
}

TEST_CASE("console: a silence is broken by a heartbeat") {
  Output output;
  {
    Console console(style_of(ConsoleStyle::Progress::lines), output.file());
    console.line("run", "here");
    console.activity("reading the text");
    const Heartbeat heartbeat(0.01, [&] { console.beat(); });
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    console.activity("");
    console.progress({.step = 1, .last_step = 2, .bits_per_byte = 8, .tokens_per_second = 10, .seconds_left = 1});
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
  }
  const std::string text = output.text();
  CHECK(text.find("heartbeat activity=\"reading the text\" seconds_since=0\n") != std::string::npos);
  CHECK(text.find("heartbeat step=1 of=2 bpb=8.0000 tokens_per_second=10 eta_seconds=1 seconds_since=0\n") !=
        std::string::npos);
  Output silent;
  {
    Console console(style_of(ConsoleStyle::Progress::none), silent.file());
    const Heartbeat heartbeat(0.01, [&] { console.beat(); });
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  CHECK(silent.text().empty());
}

TEST_CASE("console: what the options and the environment make of it") {
  using Progress = ConsoleStyle::Progress;
  setenv("TERM", "xterm", 1);
  unsetenv("NO_COLOR");
  CHECK(console_style({}, true).color);
  CHECK(console_style({}, true).progress == Progress::bar);
  CHECK(!console_style({}, false).color);
  CHECK(console_style({}, false).progress == Progress::lines);
  CHECK(console_style({.color = "always"}, false).color);
  CHECK(!console_style({.color = "never"}, true).color);
  CHECK(console_style({.progress = "bar"}, false).progress == Progress::bar);
  CHECK(console_style({.progress = "lines"}, true).progress == Progress::lines);
  CHECK(console_style({.progress = "none"}, true).progress == Progress::none);
  setenv("NO_COLOR", "", 1);  // empty counts as absent (no-color.org)
  CHECK(console_style({}, true).color);
  setenv("NO_COLOR", "1", 1);
  CHECK(!console_style({}, true).color);
  CHECK(console_style({}, true).progress == Progress::bar);
  CHECK(console_style({.color = "always"}, true).color);
  unsetenv("NO_COLOR");
  setenv("TERM", "dumb", 1);
  CHECK(!console_style({}, true).color);
  CHECK(console_style({}, true).progress == Progress::lines);
  for (const auto& [columns, width] : {std::pair{"132", 132}, {"0", 80}, {"x", 80}, {"12x", 80}, {"", 80}}) {
    setenv("COLUMNS", columns, 1);
    Output output;  // no terminal
    CHECK(console_columns(output.file()) == width);
  }
  unsetenv("COLUMNS");
}

TEST_CASE("console: counts are short") {
  for (const auto& [count, text] : {std::pair{0.0, "0"},
                                    {999.4, "999"},
                                    {999.6, "1.0k"},
                                    {26123.0, "26.1k"},
                                    {99949.0, "99.9k"},
                                    {99951.0, "100k"},
                                    {999499.0, "999k"},
                                    {1.25e6, "1.25M"},
                                    {9.99e6, "9.99M"},
                                    {1.25e7, "12M"}}) {
    CHECK(short_count(count) == text);
  }
}
