// switchyard man: the manual page, from the same lists as --help and `config explain`.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#include "engine/config/canonical.h"
#include "engine/core/error.h"
#include "tools/command.h"
#include "tools/command_line.h"
#include "tools/version.h"

namespace tools {
namespace {

using engine::str;

// Text as roff shows it: a backslash and a leading dot or quote are commands there, a plain hyphen is not a minus.
std::string roff(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    const bool begins_line = i == 0 || text[i - 1] == '\n';
    if (begins_line && (c == '.' || c == '\'')) out += "\\&";
    out += c == '\\' ? "\\e" : c == '-' ? "\\-" : std::string(1, c);
  }
  return out;
}

void print_options(const CLI::App& command) {
  for (const CLI::Option* option : command.get_options()) {
    if (option->get_name() == "--help") continue;
    std::string value = option->get_type_size() == 0 ? "" : option->get_type_name();
    if (option->get_expected_max() == CLI::detail::expected_max_vector_size) value += " ...";
    const bool positional = option->get_positional();
    std::printf(".TP\n.%s \"%s\"%s\n%s\n", positional ? "I" : "B",
                roff(option->get_name(positional, !positional)).c_str(),
                positional || value.empty() ? "" : str(" \" ", roff(value), "\"").c_str(),
                roff(option->get_description()).c_str());
  }
}

void print_command(const CLI::App& command, const std::string& words) {
  std::printf(".SS \"%s\"\n%s.\n", roff(words).c_str(), roff(command.get_description()).c_str());
  print_options(command);
  if (!command.get_footer().empty()) std::printf(".PP\n.nf\n%s\n.fi\n", roff(command.get_footer()).c_str());
  for (const CLI::App* inner : command.get_subcommands([](const CLI::App*) { return true; }))
    print_command(*inner, words + " " + inner->get_name());
}

void print_keys() {
  std::printf(".SH CONFIGURATION\nA config is JSON with comments. Its keys:\n");
  for (const engine::KeyDescription& key : engine::describe_keys()) {
    const std::string facts =
        str(key.type, key.range.empty() ? "" : ", ", key.range, key.fallback.empty() ? "" : "; default ", key.fallback);
    std::printf(".TP\n.B \"%s\"\n%s (%s).\n", roff(key.key).c_str(), roff(key.help).c_str(), roff(facts).c_str());
  }
}

int print(const CLI::App& app) {
  std::printf(".TH SWITCHYARD 1 \"\" \"switchyard " SWITCHYARD_VERSION "\" \"User Commands\"\n");
  std::printf(".SH NAME\nswitchyard \\- train mixture\\-of\\-experts transformers\n");
  std::printf(".SH SYNOPSIS\n.B switchyard\n.I command\n[options]\n.SH DESCRIPTION\n%s\n.PP\n%s\n",
              roff(app.get_description()).c_str(), roff(app.get_footer()).c_str());
  std::printf(".SH COMMANDS\n");
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; }))
    print_command(*command, command->get_name());
  print_keys();
  std::printf(".SH \"EXIT STATUS\"\n");
  for (const auto& [code, meaning] : {std::pair{"0", "done"},
                                      {"1", "a bug of the program"},
                                      {"2", "usage or config"},
                                      {"3", "data"},
                                      {"4", "environment or resources: memory, disk, device, MPI"},
                                      {"5", "numbers that are not finite"},
                                      {"6", "a checkpoint is missing, damaged or of another model"},
                                      {"7", "a stated requirement is not met"},
                                      {"8", "the directory is in use"},
                                      {"9", "a rank died or hung"},
                                      {"75", "stopped on request after a durable save, to be resumed"}}) {
    std::printf(".TP\n.B %s\n%s\n", code, roff(meaning).c_str());
  }
  std::printf(
      ".SH ENVIRONMENT\n.TP\n.B NO_COLOR\nno colour, where it is not empty\n.TP\n.B COLUMNS\nwidth of the screen, in "
      "place of what the terminal says\n");
  std::printf(".SH \"SEE ALSO\"\nREADME.md, ARCHITECTURE.md and CHANGELOG.md of the sources\n");
  return 0;
}

}  // namespace

void add_man(CommandLine& program) {
  CommandLine command = program.add_subcommand("man", "the manual page, for man(1)");
  command.footer("Example: switchyard man | man -l -");
  command.runs([&program] { return print(program.app()); });
}

}  // namespace tools
