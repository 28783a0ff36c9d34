#include "tools/help_text.h"

#include <sstream>

namespace tools {
namespace {

constexpr size_t kOptionColumn = 30, kCommandColumn = 16;

}  // namespace

std::string two_columns(const std::string& left, const std::string& text, size_t column) {
  std::string out = left, word;
  size_t at = left.size();
  const auto new_line = [&] {
    out += '\n';
    out.append(column, ' ');
    at = column;
  };
  if (at + 1 > column && !text.empty()) new_line();
  std::istringstream words(text);
  bool first = true;
  while (words >> word) {
    if (!first && at + 1 + word.size() > kHelpColumns) {
      new_line();
      first = true;
    }
    const size_t gap = first ? column - at : 1;
    out.append(gap, ' ');
    out += word;
    at += gap + word.size();
    first = false;
  }
  return out + "\n";
}

std::string HelpFormatter::make_option(const CLI::Option* option, bool is_positional) const {
  return two_columns("  " + make_option_name(option, is_positional) + make_option_opts(option),
                     make_option_desc(option), kOptionColumn);
}

std::string HelpFormatter::make_subcommand(const CLI::App* command) const {
  return two_columns("  " + command->get_name(), command->get_description(), kCommandColumn);
}

std::string HelpFormatter::make_footer(const CLI::App* command) const {
  std::istringstream lines(command->get_footer());
  std::string out;
  for (std::string line; std::getline(lines, line);) {
    while (line.size() > kHelpColumns) {
      const size_t space = line.rfind(' ', kHelpColumns - 2);
      if (space == std::string::npos || space < 20) break;
      out += line.substr(0, space) + " \\\n";
      line = std::string(10, ' ') + line.substr(space + 1);
    }
    out += line + "\n";
  }
  return out;
}

std::string HelpFormatter::make_description(const CLI::App* command) const {
  return two_columns("", command->get_description(), 0);
}

}  // namespace tools
