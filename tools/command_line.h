// What a command declares: its options, their limits and what it does. The parser behind it is CLI11, whose header
// takes a compiler seconds in every file that includes it.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace tools {

// What the chosen command does; returns the exit code. Errors are thrown and mapped to exit codes by main.
using Action = std::function<int()>;

// An option or a positional argument of a command. Each limit is a usage error (exit 2) that names value and limit.
class Option {
 public:
  explicit Option(CLI::Option* option) : option_(option) {}
  Option& required();
  Option& positive();
  Option& non_negative();
  Option& between(int64_t low, int64_t high);  // both are allowed
  Option& within(double low, double high);
  Option& one_of(const std::vector<std::string>& words);
  Option& separated_by(char separator);  // the values of a vector
  Option& needs(const Option& other);
  Option& excludes(const Option& other);

 private:
  CLI::Option* option_;
};

// A command, or the program itself. A handle: copies mean the same command.
class CommandLine {
 public:
  // `chosen` becomes the action of the command that is parsed.
  CommandLine(CLI::App& app, Action& chosen) : app_(&app), chosen_(&chosen) {}
  CommandLine add_subcommand(const std::string& name, const std::string& help);
  void require_subcommand();
  // Options of which exactly one must be given.
  CommandLine add_choice(const std::string& name);
  // `names`: "-o,--output", or "config" for a positional argument. `value` keeps its default where nothing is given and
  // must outlive the action. T: string, int, int64_t, uint64_t, double, or a vector of strings or numbers.
  template <typename T>
  Option add_option(const std::string& names, T& value, const std::string& help);
  Option add_flag(const std::string& names, bool& value, const std::string& help);
  void footer(const std::string& text);
  // Only where no subcommand of this command is given.
  void runs(Action action);
  std::string name() const;
  const CLI::App& app() const { return *app_; }

 private:
  CLI::App* app_;
  Action* chosen_;
};

}  // namespace tools
