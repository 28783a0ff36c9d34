#include "engine/train/console.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "engine/config/units.h"
#include "engine/core/error.h"

namespace engine::train {
namespace {

constexpr char kBold[] = "1", kGreen[] = "32", kYellow[] = "33", kDim[] = "2";
constexpr int64_t kRowsPerHeader = 24;

bool is_set(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr && *value != '\0';
}

}  // namespace

ConsoleStyle console_style(const ConsoleOptions& options, bool is_terminal) {
  using Progress = ConsoleStyle::Progress;
  const char* kind = std::getenv("TERM");
  const bool dumb = kind == nullptr || std::strcmp(kind, "dumb") == 0;
  ConsoleStyle style;
  style.verbosity = options.verbosity;
  style.color = options.color == "always" || (options.color == "auto" && is_terminal && !dumb && !is_set("NO_COLOR"));
  style.progress = options.progress == "none"    ? Progress::none
                   : options.progress == "bar"   ? Progress::bar
                   : options.progress == "lines" ? Progress::lines
                   : is_terminal && !dumb        ? Progress::bar
                                                 : Progress::lines;
  return style;
}

int console_columns(std::FILE* file) {
  if (const char* text = std::getenv("COLUMNS"); text != nullptr) {
    int columns = 0;
    const char* end = text + std::strlen(text);
    if (const auto parsed = std::from_chars(text, end, columns); parsed.ptr == end && columns > 0) return columns;
  }
  winsize size{};
  return ioctl(fileno(file), TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

Console::~Console() {
  clear_bar();
}

void Console::clear_bar() {
  if (!bar_shown_) return;
  std::fputs("\r\033[K", out_);
  std::fflush(out_);
  bar_shown_ = false;
}

std::string Console::colored(const char* code, const std::string& text) const {
  return style_.color ? str("\033[", code, "m", text, "\033[0m") : text;
}

void Console::print(const std::string& text) {
  clear_bar();
  std::fprintf(out_, "%s\n", text.c_str());
  std::fflush(out_);
  last_print_ = monotonic_seconds();
}

void Console::line(const std::string& topic, const std::string& text) {
  const std::lock_guard lock(mutex_);
  if (style_.verbosity < 0) return;
  rows_ = 0;
  const bool fits_columns = style_.progress != ConsoleStyle::Progress::lines;
  print(str(colored(kBold, topic), std::string(topic.size() < 9 ? 10 - topic.size() : 1, ' '),
            fits_columns ? topic_text(text, console_columns(out_)) : text));
}

void Console::detail(const std::string& topic, const std::string& text) {
  if (style_.verbosity > 0) line(topic, text);
}

void Console::warning(const std::string& text) {
  if (style_.mute) return;
  const std::lock_guard lock(mutex_);
  print(colored(kYellow, "warning:") + " " + text);
}

void Console::step(const StepReport& report) {
  const std::lock_guard lock(mutex_);
  if (style_.verbosity < 0 || style_.progress == ConsoleStyle::Progress::none) return;
  if (style_.progress == ConsoleStyle::Progress::lines) return print(step_fields(report));
  const int width = console_columns(out_);
  if (rows_++ % kRowsPerHeader == 0) print(colored(kDim, step_header(report, width)));
  print(step_row(report, width));
}

void Console::evaluation(const EvaluationReport& report) {
  const std::lock_guard lock(mutex_);
  if (style_.verbosity < 0) return;
  if (style_.progress == ConsoleStyle::Progress::lines) return print(evaluation_fields(report));
  std::string text = evaluation_text(report, console_columns(out_));
  if (const std::string mark = progress_mark(report.history); !mark.empty()) {
    const int64_t since = report.history.since_best();
    const char* color = since == 0 ? kGreen : since >= kStalledAfter ? kYellow : kDim;
    text = text.substr(0, text.size() - mark.size()) + colored(color, mark);
  }
  print(colored(kBold, "  eval") + "    " + text);
}

void Console::progress(const ProgressReport& report) {
  const std::lock_guard lock(mutex_);
  progress_ = report;
  progress_time_ = monotonic_seconds();
  if (progress_time_ - last_draw_ >= 0.2) draw_bar();
}

void Console::activity(const std::string& text) {
  const std::lock_guard lock(mutex_);
  activity_ = text;
  activity_time_ = monotonic_seconds();
  draw_bar();
}

void Console::draw_bar() {
  if (style_.verbosity < 0 || style_.progress != ConsoleStyle::Progress::bar) return;
  const double now = monotonic_seconds();
  std::string text;
  if (!activity_.empty()) {
    text = activity_;
    // the first second is not worth a number
    if (now - activity_time_ >= 1) text += "  " + print_duration(std::floor(now - activity_time_));
  } else if (progress_.step > 0 || progress_.last_step > 0) {
    ProgressReport report = progress_;
    if (report.seconds_left >= 0) report.seconds_left = std::max(0.0, report.seconds_left - (now - progress_time_));
    text = progress_bar(report, console_columns(out_) - 1);
  }
  clear_bar();
  last_draw_ = now;
  if (text.empty()) return;
  std::fprintf(out_, "\r%s\033[K", text.substr(0, static_cast<size_t>(console_columns(out_) - 1)).c_str());
  std::fflush(out_);
  bar_shown_ = true;
}

void Console::beat() {
  const std::lock_guard lock(mutex_);
  if (style_.verbosity < 0 || style_.progress == ConsoleStyle::Progress::none) return;
  if (style_.progress == ConsoleStyle::Progress::bar) {
    if (bar_shown_ && monotonic_seconds() - last_draw_ >= 1) draw_bar();
    return;
  }
  const double now = monotonic_seconds();
  if (last_print_ == 0) last_print_ = now;
  if (now - last_print_ < style_.heartbeat_seconds) return;
  const bool doing = !activity_.empty();
  const double since = now - (doing ? activity_time_ : progress_time_);
  const bool under_way = progress_.step > 0 || progress_.last_step > 0;
  print(str("heartbeat", doing ? " activity=" : "", doing ? field_text(activity_) : "", under_way ? " " : "",
            under_way ? progress_fields(progress_) : "", " seconds_since=", static_cast<int64_t>(since)));
}

}  // namespace engine::train
