// switchyard completion bash|zsh: completion scripts, from the same lists as --help and `config explain`.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#include "engine/config/canonical.h"
#include "engine/core/error.h"
#include "tools/command.h"
#include "tools/command_line.h"

namespace tools {
namespace {

using engine::str;

// A command with what may follow it.
struct Completion {
  std::string command;             // "config check"; empty: the program itself
  std::vector<std::string> words;  // subcommands and options
};

void collect(const CLI::App& app, const std::string& command, std::vector<Completion>& all) {
  Completion completion{command, {}};
  const auto subcommands = app.get_subcommands([](const CLI::App*) { return true; });
  for (const CLI::App* sub : subcommands) completion.words.push_back(sub->get_name());
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) completion.words.push_back("--" + name);
  }
  all.push_back(completion);
  for (const CLI::App* sub : subcommands) collect(*sub, command + (command.empty() ? "" : " ") + sub->get_name(), all);
}

std::string joined(const std::vector<std::string>& words, const std::string& suffix) {
  std::string list;
  for (const std::string& word : words) list += (list.empty() ? "" : " ") + word + suffix;
  return list;
}

// Keys one may set; an element of a list is given by its number.
std::vector<std::string> keys() {
  std::vector<std::string> names;
  for (const engine::KeyDescription& key : engine::describe_keys()) {
    std::string name = key.key;
    if (name.starts_with('$')) continue;  // "$schema" is for editors, and a variable to a shell
    for (size_t at = name.find("[]"); at != std::string::npos; at = name.find("[]")) name.replace(at, 2, "[0]");
    names.push_back(name);
  }
  return names;
}

// "command word" of everything that is a command, for the pattern of a case.
std::string command_patterns(const std::vector<Completion>& all) {
  std::string patterns;
  for (const Completion& completion : all) {
    if (completion.command.empty()) continue;
    const size_t space = completion.command.find(' ');
    patterns += str(patterns.empty() ? "" : " | ", '"', space == std::string::npos ? " " : "", completion.command, '"');
  }
  return patterns;
}

void print_bash(const std::vector<Completion>& all) {
  std::printf(
      "# switchyard: source <(switchyard completion bash)\n"
      "_switchyard() {\n"
      "  local current=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} command=\"\" words i\n"
      "  for ((i = 1; i < COMP_CWORD; ++i)); do\n"
      "    case \"$command ${COMP_WORDS[i]}\" in\n"
      "      %s) command=\"${command:+$command }${COMP_WORDS[i]}\" ;;\n"
      "    esac\n"
      "  done\n"
      "  case $command in\n",
      command_patterns(all).c_str());
  for (const Completion& completion : all) {
    const std::string more = completion.command == "config explain" ? " " + joined(keys(), "") : "";
    std::printf("    \"%s\") words=\"%s%s\" ;;\n", completion.command.c_str(), joined(completion.words, "").c_str(),
                more.c_str());
  }
  std::printf(
      "  esac\n"
      "  if [[ $before == --set ]]; then\n"
      "    words=\"%s\"\n"
      "    compopt -o nospace 2>/dev/null\n"
      "  fi\n"
      "  mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$current\")\n"
      "  [[ ${#COMPREPLY[@]} == 0 ]] && mapfile -t COMPREPLY < <(compgen -f -- \"$current\")\n"
      "}\n"
      "complete -o filenames -F _switchyard switchyard\n",
      joined(keys(), "=").c_str());
}

void print_zsh(const std::vector<Completion>& all) {
  std::printf(
      "#compdef switchyard\n"
      "# switchyard: source <(switchyard completion zsh)\n"
      "_switchyard() {\n"
      "  local command=\"\" word\n"
      "  for word in \"${(@)words[2,CURRENT-1]}\"; do\n"
      "    case \"$command $word\" in\n"
      "      (%s) command=\"${command:+$command }$word\" ;;\n"
      "    esac\n"
      "  done\n"
      "  if [[ ${words[CURRENT-1]} == --set ]]; then\n"
      "    compadd -S '' -- %s\n"
      "    return\n"
      "  fi\n"
      "  case $command in\n",
      command_patterns(all).c_str(), joined(keys(), "=").c_str());
  for (const Completion& completion : all) {
    const std::string more = completion.command == "config explain" ? " " + joined(keys(), "") : "";
    std::printf("    (\"%s\") compadd -- %s%s ;;\n", completion.command.c_str(), joined(completion.words, "").c_str(),
                more.c_str());
  }
  std::printf(
      "  esac\n"
      "  _files\n"
      "}\n"
      "compdef _switchyard switchyard\n");
}

}  // namespace

void add_completion(CommandLine& program) {
  auto shell = std::make_shared<std::string>();
  CommandLine command =
      program.add_subcommand("completion", "a script that completes commands, options and config keys");
  command.add_option("shell", *shell, "bash or zsh").required().one_of({"bash", "zsh"});
  command.footer("Example: source <(switchyard completion bash)");
  command.runs([shell, &program] {
    std::vector<Completion> all;
    collect(program.app(), "", all);
    *shell == "bash" ? print_bash(all) : print_zsh(all);
    return 0;
  });
}

}  // namespace tools
