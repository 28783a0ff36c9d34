#include "engine/train/console.h"

#include <unistd.h>

#include <cstdio>

#include "engine/config/units.h"

namespace engine::train {
namespace {

template <class... Values>
std::string format(const char* pattern, Values... values) {
  char text[256];
  std::snprintf(text, sizeof(text), pattern, values...);
  return text;
}

long long number(int64_t n) {
  return static_cast<long long>(n);
}

}  // namespace

Console::Console(bool quiet) : quiet_(quiet), terminal_(isatty(STDERR_FILENO) != 0) {}

void Console::print(const std::string& text) {
  if (quiet_) return;
  if (progress_shown_) std::fputs("\r\033[K", stderr);
  progress_shown_ = false;
  std::fprintf(stderr, "%s\n", text.c_str());
  last_print_ = monotonic_seconds();
}

void Console::line(const std::string& topic, const std::string& text) {
  print(format("%-9s ", topic.c_str()) + text);
}

void Console::warning(const std::string& text) {
  print("warning: " + text);
}

void Console::step(const Step& s) {
  const StepResult& r = s.result;
  if (!terminal_) {
    print(format(
        "step=%lld loss=%.4f aux_loss=%.4f grad_norm=%.4f lr=%.3e tokens_per_second=%.0f load_max_over_mean=%.2f "
        "load_layer=%lld dropped=%.4f",
        number(r.step), r.loss, r.aux_loss, r.grad_norm, r.lr, s.tokens_per_second, s.worst_load, number(s.worst_layer),
        s.dropped_share));
    return;
  }
  if (!header_printed_) print("    step     loss   norm      lr    tokens/s   load max/mean   drop");
  header_printed_ = true;
  print(format("  %6lld  %7.4f  %5.2f  %.1e  %8.0f   %4.2f (layer %lld)  %4.1f %%", number(r.step), r.loss, r.grad_norm,
               r.lr, s.tokens_per_second, s.worst_load, number(s.worst_layer), 100 * s.dropped_share));
}

void Console::progress(int64_t step, int64_t total_steps, double loss, double tokens_per_second, double eta_seconds) {
  if (quiet_) return;
  const std::string eta = print_duration(eta_seconds);
  if (!terminal_) {
    if (monotonic_seconds() - last_print_ < 60) return;
    print(format("step=%lld of=%lld loss=%.4f tokens_per_second=%.0f eta=%s", number(step), number(total_steps), loss,
                 tokens_per_second, eta.c_str()));
    return;
  }
  if (monotonic_seconds() - last_print_ < 0.2) return;
  const int filled = total_steps > 0 ? static_cast<int>(20 * step / total_steps) : 0;
  std::string bar(20, '-');
  bar.replace(0, static_cast<size_t>(filled), static_cast<size_t>(filled), '#');
  std::fprintf(stderr, "\r\033[K[%s] %lld/%lld  loss %.3f  %.0f tokens/s  %s left   Ctrl-C saves and stops",
               bar.c_str(), number(step), number(total_steps), loss, tokens_per_second, eta.c_str());
  std::fflush(stderr);
  progress_shown_ = true;
  last_print_ = monotonic_seconds();
}

void Console::evaluation(const std::vector<EvalResult>& results, double baseline, bool is_best) {
  std::string text;
  for (const EvalResult& result : results) {
    text += format("%s%s %.3f", text.empty() ? "" : "   ", result.set.c_str(), result.bits_per_byte());
    if (&result == &results.front() && baseline > 0) text += format(" (3-gram %.3f)", baseline);
  }
  line("eval", text + " bits/byte" + (is_best ? "   new best" : ""));
}

}  // namespace engine::train
