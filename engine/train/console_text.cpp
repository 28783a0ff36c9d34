#include "engine/train/console_text.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "engine/config/json_reader.h"
#include "engine/config/units.h"
#include "engine/core/error.h"

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

// --- the table of steps --------------------------------------------------------------------------------------------

struct Column {
  const char* title;
  int width;
  int weight;  // columns of the smallest weight are left out first, all of one weight together
  std::string text;
};

std::string share(double part, double whole) {
  return whole > 0 ? format("%.0f%%", 100 * part / whole) : "-";
}

std::vector<Column> columns_of(const StepReport& s, int width) {
  const StepResult& r = s.result;
  const StepPhases& p = r.phases;
  std::vector<Column> columns = {
      {"step", 7, 9, format("%lld", number(r.step))},
      {"loss", 8, 9, format("%.4f", r.loss)},
      {"(z)", 7, 3, r.loss_z ? format("(%+.1f)", *r.loss_z) : ""},
      {"bpb", 7, 6, format("%.3f", s.bits_per_byte)},
      {"norm", 7, 5, format("%.2f", r.grad_norm)},
      {"lr", 9, 2, format("%.1e", r.lr)},
      {"tok/s", 8, 8, short_count(s.tokens_per_second)},
      {"data", 5, 4, share(p.data, r.seconds)},
      {"fwd", 5, 4, share(p.forward, r.seconds)},
      {"bwd", 5, 4, share(p.backward, r.seconds)},
      {"comm", 5, 4, share(p.comm, r.seconds)},
      {"opt", 5, 4, share(p.optimizer, r.seconds)},
  };
  if (s.has_experts) {
    columns.push_back({"load max/mean", 17, 7, format("%.2f (layer %lld)", s.worst_load, number(s.worst_layer))});
    columns.push_back({"aux", 7, 1, format("%.3f", r.aux_loss)});
  }
  if (s.may_drop) columns.push_back({"drop", 7, 7, format("%.1f %%", 100 * s.dropped_share)});
  for (int least = 1; least < 9; ++least) {
    int sum = 0;
    for (const Column& column : columns) sum += column.width;
    if (sum <= width) break;
    std::erase_if(columns, [least](const Column& column) { return column.weight == least; });
  }
  return columns;
}

// Pieces in lines of a width, with room for the topic in front of them.
std::string filled(const std::vector<std::string>& pieces, const char* between, int width) {
  constexpr size_t kIndent = 10;
  std::string text;
  size_t at = kIndent;
  const size_t gap = std::strlen(between);
  for (const std::string& piece : pieces) {
    if (at > kIndent && at + gap + piece.size() > static_cast<size_t>(width)) {
      text += '\n';
      text.append(kIndent, ' ');
      at = kIndent;
    } else if (!text.empty()) {
      text += between;
      at += gap;
    }
    text += piece;
    at += piece.size();
  }
  return text;
}

// --- key=value -----------------------------------------------------------------------------------------------------

std::string& add_field(std::string& line, const std::string& key, const std::string& value) {
  return line += str(line.empty() ? "" : " ", key, "=", value);
}

void add_duration(std::string& line, double seconds) {
  if (seconds >= 0) add_field(line, "eta_seconds", format("%.0f", seconds));
}

}  // namespace

std::string short_count(double count) {
  if (count < 999.5) return format("%.0f", count);
  if (count < 99950) return format("%.1fk", count / 1e3);
  if (count < 999500) return format("%.0fk", count / 1e3);
  return format(count < 9.995e6 ? "%.2fM" : "%.0fM", count / 1e6);
}

std::string field_text(const std::string& text) {
  const bool plain = !text.empty() && text.find_first_of(" \t\n\"=\\") == std::string::npos;
  return plain ? text : json_string(text);
}

std::string step_header(const StepReport& step, int width) {
  std::string line;
  for (const Column& column : columns_of(step, width)) line += format("%*s", column.width, column.title);
  return line;
}

std::string step_row(const StepReport& step, int width) {
  std::string line;
  for (const Column& column : columns_of(step, width)) line += format("%*s", column.width, column.text.c_str());
  return line;
}

std::string step_fields(const StepReport& s) {
  const StepResult& r = s.result;
  std::string line;
  add_field(line, "step", format("%lld", number(r.step)));
  add_field(line, "loss", format("%.4f", r.loss));
  if (r.loss_z) add_field(line, "loss_z", format("%.1f", *r.loss_z));
  add_field(line, "bpb", format("%.4f", s.bits_per_byte));
  if (s.has_experts) add_field(line, "aux_loss", format("%.4f", r.aux_loss));
  add_field(line, "grad_norm", format("%.4f", r.grad_norm));
  add_field(line, "lr", format("%.3e", r.lr));
  add_field(line, "tokens_per_second", format("%.0f", s.tokens_per_second));
  const StepPhases& p = r.phases;
  for (const auto& [name, seconds] : {std::pair{"data", p.data},
                                      {"forward", p.forward},
                                      {"backward", p.backward},
                                      {"comm", p.comm},
                                      {"optimizer", p.optimizer}}) {
    if (r.seconds > 0) add_field(line, name, format("%.3f", seconds / r.seconds));
  }
  if (s.has_experts) {
    add_field(line, "load_max_over_mean", format("%.2f", s.worst_load));
    add_field(line, "load_layer", format("%lld", number(s.worst_layer)));
  }
  if (s.may_drop) add_field(line, "dropped", format("%.4f", s.dropped_share));
  add_duration(line, s.seconds_left);
  return line;
}

std::string progress_bar(const ProgressReport& p, int width) {
  std::string text =
      p.last_step > 0 ? format("%lld/%lld", number(p.step), number(p.last_step)) : format("step %lld", number(p.step));
  if (p.step > 0) text += format("  %.3f bpb  ", p.bits_per_byte) + short_count(p.tokens_per_second) + " tok/s";
  if (p.seconds_left >= 0) text += "  eta " + print_duration(p.seconds_left);
  // what is left of the line goes to the bar, then to the hint
  const std::string hint = "   Ctrl-C saves and stops";
  const int room = width - static_cast<int>(text.size());
  if (p.last_step > 0 && room >= 13) {
    const bool both = room >= 13 + static_cast<int>(hint.size());
    const int length = std::min(40, room - 3 - (both ? static_cast<int>(hint.size()) : 0));
    const int filled = static_cast<int>(static_cast<int64_t>(length) * std::min(p.step, p.last_step) / p.last_step);
    text = str("[", std::string(static_cast<size_t>(filled), '#'),
               std::string(static_cast<size_t>(length - filled), '-'), "] ", text);
  }
  if (static_cast<int>(text.size() + hint.size()) <= width) text += hint;
  return text.substr(0, static_cast<size_t>(std::max(0, width)));
}

std::string progress_fields(const ProgressReport& p) {
  std::string line;
  add_field(line, "step", format("%lld", number(p.step)));
  if (p.last_step > 0) add_field(line, "of", format("%lld", number(p.last_step)));
  if (p.step > 0) {
    add_field(line, "bpb", format("%.4f", p.bits_per_byte));
    add_field(line, "tokens_per_second", format("%.0f", p.tokens_per_second));
  }
  add_duration(line, p.seconds_left);
  return line;
}

std::string evaluation_text(const EvaluationReport& report, int width) {
  std::vector<std::string> pieces;
  for (size_t i = 0; i < report.results.size(); ++i) {
    const EvalResult& result = report.results[i];
    std::string piece = format("%s %.3f", result.set.c_str(), result.bits_per_byte());
    if (i < report.baselines.size() && report.baselines[i].three_gram > 0)
      piece += format(" (3-gram %.3f, 5-gram %.3f)", report.baselines[i].three_gram, report.baselines[i].five_gram);
    pieces.push_back(i == 0 ? piece + " bits/byte" : piece);
  }
  if (const std::string mark = progress_mark(report.history); !mark.empty()) pieces.push_back(mark);
  return filled(pieces, "   ", width);
}

std::string topic_text(const std::string& text, int width) {
  std::vector<std::string> words;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(' ', begin), text.size());
    words.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return filled(words, " ", width);
}

std::string evaluation_fields(const EvaluationReport& report) {
  std::string line = "eval";
  add_field(line, "step", format("%lld", number(report.step)));
  for (size_t i = 0; i < report.results.size(); ++i) {
    const std::string key = field_text(report.results[i].set);
    add_field(line, key, format("%.4f", report.results[i].bits_per_byte()));
    if (i < report.baselines.size() && report.baselines[i].three_gram > 0) {
      add_field(line, key + ".3-gram", format("%.4f", report.baselines[i].three_gram));
      add_field(line, key + ".5-gram", format("%.4f", report.baselines[i].five_gram));
    }
  }
  const EvaluationHistory& history = report.history;
  if (history.count() > 0) {
    add_field(line, "best", format("%.4f", history.best()));
    add_field(line, "best_step", format("%lld", number(history.best_step())));
    add_field(line, "mark",
              history.since_best() == 0               ? "new_best"
              : history.since_best() >= kStalledAfter ? "stalled"
                                                      : "none");
  }
  return line;
}

}  // namespace engine::train
