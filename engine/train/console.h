// What a run says while it trains: a table and a progress bar on a terminal, key=value lines elsewhere.
// Narration goes to stderr, results to stdout. May be called from several threads.
#pragma once

#include <cstdint>
#include <cstdio>
#include <mutex>
#include <string>

#include "engine/train/console_text.h"

namespace engine::train {

// --color, --progress, -q and -v.
struct ConsoleOptions {
  std::string color = "auto";     // auto, always, never
  std::string progress = "auto";  // auto, bar, lines, none
  int verbosity = 0;              // below zero: errors and warnings only; above: details
};

struct ConsoleStyle {
  enum class Progress { none, lines, bar };
  Progress progress = Progress::none;
  bool color = false;
  int verbosity = -1;
  bool mute = false;              // of ranks that do not lead: not even warnings
  double heartbeat_seconds = 58;  // of silence, looked at each second: a line comes within the minute
};
// "auto" is a bar and colour on a terminal, lines without colour elsewhere; NO_COLOR in the environment and a terminal
// of the kind "dumb" are without colour, the latter without a bar, too.
ConsoleStyle console_style(const ConsoleOptions& options, bool is_terminal);

// COLUMNS from the environment, else the width of the terminal behind `file`, else 80.
int console_columns(std::FILE* file);

class Console {
 public:
  // Says nothing but warnings, unless a style is given.
  explicit Console(const ConsoleStyle& style = {}, std::FILE* out = stderr) : style_(style), out_(out) {}
  ~Console();  // takes the bar away
  Console(const Console&) = delete;

  void line(const std::string& topic, const std::string& text);
  void detail(const std::string& topic, const std::string& text);  // with -v
  void warning(const std::string& text);
  void step(const StepReport& report);
  void evaluation(const EvaluationReport& report);

  // How far the run is, for the bar and the heartbeat.
  void progress(const ProgressReport& report);
  // What is being done where no steps are taken ("reading text"); an empty text ends it.
  void activity(const std::string& text);
  // To be called about each second: moves the bar, and breaks a silence that is too long.
  void beat();

 private:
  void print(const std::string& text);
  void draw_bar();
  void clear_bar();
  std::string colored(const char* code, const std::string& text) const;

  ConsoleStyle style_;
  std::FILE* out_;
  std::mutex mutex_;
  ProgressReport progress_;
  double progress_time_ = 0, last_print_ = 0, last_draw_ = 0;
  std::string activity_;
  double activity_time_ = 0;
  int64_t rows_ = 0;  // of the table since its header
  bool bar_shown_ = false;
};

}  // namespace engine::train
