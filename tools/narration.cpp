#include "tools/narration.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "engine/core/error.h"
#include "engine/core/thread_pool.h"
#include "tools/version.h"

namespace tools {

using engine::Error;
using engine::str;
namespace train = engine::train;

namespace {

// A word as one would type it.
std::string shell_word(const std::string& word) {
  const bool plain = !word.empty() && word.find_first_not_of(
                                          "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                          "0123456789_./:=+,@%-") == std::string::npos;
  if (plain) return word;
  std::string text = "'";
  for (char c : word) text += c == '\'' ? "'\\''" : std::string(1, c);
  return text + "'";
}

// For command.txt: when, what, where, and which program.
std::string command_text() {
  std::ifstream file("/proc/self/cmdline", std::ios::binary);
  std::string words;
  for (std::string word; std::getline(file, word, '\0');) words += (words.empty() ? "" : " ") + shell_word(word);
  std::error_code error;
  return str(train::utc_time(), "  switchyard ", kVersion, "\n  cd ", std::filesystem::current_path(error).string(),
             "\n  ", words, "\n");
}

}  // namespace

Narration::Narration(train::RunDirectory& directory, const train::ConsoleOptions& options)
    : console_(train::console_style(options, isatty(STDERR_FILENO) != 0)), status_(directory), heartbeat_(1, [this] {
        console_.beat();
        status_.beat();
      }) {}

void Narration::say_config(const std::string& file, const engine::Config& config,
                           const std::vector<std::string>& sets) {
  std::string changes;
  for (const std::string& set : sets) changes += (changes.empty() ? "" : ", ") + set;
  if (!sets.empty()) changes = str("  + ", sets.size(), sets.size() == 1 ? " change" : " changes", " (", changes, ")");
  console_.line("config", file + changes);
  for (auto at = config.origins.begin(); at != config.origins.end(); ++at) {
    const auto next = std::next(at);
    const bool has_parts = next != config.origins.end() &&
                           (next->first.starts_with(at->first + ".") || next->first.starts_with(at->first + "["));
    if (!has_parts) console_.detail("key", str(at->first, "  from ", at->second));
  }
  console_.detail("process", str(getpid(), ", ", engine::available_processors(), " processors, switchyard ", kVersion));
}

void Narration::join(train::RunOptions& options) {
  options.console = &console_;
  options.status = &status_;
  options.command = command_text();
  options.version = kVersion;
}

train::RunSummary Narration::watch(const std::function<train::RunSummary()>& train) {
  try {
    train::RunSummary summary = train();
    status_.end(summary.stopped() ? "stopped" : "done");
    return summary;
  } catch (const Error& error) {
    status_.fail(error.code(), error.what());
    throw;
  } catch (const std::exception& error) {
    status_.fail(engine::ExitCode::bug, error.what());
    throw;
  }
}

}  // namespace tools
