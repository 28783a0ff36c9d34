// Help in at most 80 columns.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

namespace tools {

inline constexpr size_t kHelpColumns = 80;

// `left` and, from `column` on, the words of `text`, which goes on below itself.
std::string two_columns(const std::string& left, const std::string& text, size_t column);

class HelpFormatter : public CLI::Formatter {
 public:
  std::string make_option(const CLI::Option* option, bool is_positional) const override;
  std::string make_subcommand(const CLI::App* command) const override;
  std::string make_description(const CLI::App* command) const override;
  // Examples that are too long go on behind a backslash, as a shell takes them.
  std::string make_footer(const CLI::App* command) const override;
};

}  // namespace tools
