#include "tools/usage_message.h"

#include <CLI/CLI.hpp>
#include <cstdlib>
#include <vector>

#include "engine/config/json_reader.h"
#include "engine/config/problems.h"
#include "engine/core/error.h"

namespace tools {
namespace {

using engine::str;

std::string joined(const std::vector<std::string>& words) {
  std::string list;
  for (const std::string& word : words) list += (list.empty() ? "" : ", ") + word;
  return list;
}

std::string did_you_mean(const std::string& word, const std::vector<std::string>& candidates) {
  const std::string near = engine::nearest(word, candidates);
  return near.empty() ? "" : str(" (did you mean \"", near, "\"?)");
}

std::string missing_command(const CLI::App& at, const std::string& words) {
  std::vector<std::string> commands;
  for (const CLI::App* command : at.get_subcommands([](const CLI::App*) { return true; }))
    commands.push_back(command->get_name());
  const std::vector<std::string> rest = at.remaining();
  if (rest.empty() || rest[0].starts_with('-')) return str(words, " needs one of ", joined(commands));
  const std::string near = did_you_mean(rest[0], commands);
  return str("there is no \"", words, " ", rest[0], "\"", near.empty() ? str("; there is ", joined(commands)) : near);
}

std::string unexpected(const CLI::App& at, const std::string& words) {
  const std::vector<std::string> rest = at.remaining();
  if (rest.empty()) return str(words, " was given too much");
  const std::string word = rest[0].substr(0, rest[0].find('='));
  if (!word.starts_with('-')) return str(words, " does not take \"", word, "\"");
  std::vector<std::string> options;
  for (const CLI::Option* option : at.get_options()) {
    for (const std::string& name : option->get_lnames()) options.push_back("--" + name);
  }
  return str(words, " has no option ", word, did_you_mean(word, options));
}

std::string missing_option(const CLI::App& at, const std::string& words, const std::string& name) {
  for (const CLI::Option* option : at.get_options()) {
    if (option->get_name() == name) return str(words, " needs ", name, ": ", option->get_description());
  }
  return str(words, " needs ", name);
}

// "Value 0 not in range 1 to 5" and "x not in {a,b}" as what is and what must be.
std::string out_of_bounds(const std::string& text) {
  const size_t range = text.find(" not in range "), set = text.find(" not in {");
  if (text.starts_with("Value ") && range != std::string::npos) {
    const std::string bounds = text.substr(range + 14);
    const double low = std::strtod(bounds.c_str(), nullptr),
                 high = std::strtod(bounds.c_str() + bounds.find(" to ") + 4, nullptr);
    // the parser's own PositiveNumber ends at the largest double, ours at the largest integer
    const std::string wanted = high > 1e300 ? "a number above 0"
                               : high > 1e18
                                   ? str("a number of at least ", engine::number_text(low))
                                   : str("from ", engine::number_text(low), " to ", engine::number_text(high));
    return str("is ", text.substr(6, range - 6), " but must be ", wanted);
  }
  if (set == std::string::npos) return text;
  std::string choices;
  for (char c : text.substr(set + 9, text.rfind('}') - set - 9)) choices += c == ',' ? ", " : std::string(1, c);
  return str("is ", text.substr(0, set), " but must be one of ", choices);
}

}  // namespace

std::string usage_message(const CLI::App& app, const CLI::ParseError& error) {
  const CLI::App* at = &app;
  std::string words = app.get_name(), text = error.what();
  while (!at->get_subcommands().empty()) {
    at = at->get_subcommands().back();
    words += " " + at->get_name();
  }
  if (text.starts_with("A subcommand is required")) {
    text = missing_command(*at, words);
  } else if (dynamic_cast<const CLI::RequiredError*>(&error) != nullptr) {
    text = missing_option(*at, words, text.substr(0, text.find(" is required")));
  } else if (dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr) {
    text = unexpected(*at, words);
  } else if (dynamic_cast<const CLI::ConversionError*>(&error) != nullptr) {
    const size_t equals = text.find(" = ");
    const size_t begin = text.find("--");
    if (equals != std::string::npos && begin != std::string::npos)
      text = str(text.substr(begin, equals - begin), " is ", text.substr(equals + 3), " but must be a number");
  } else if (dynamic_cast<const CLI::ArgumentMismatch*>(&error) != nullptr) {
    text = text.substr(0, text.find(':')) + " needs a value";
  } else if (const size_t colon = text.find(": ");
             colon != std::string::npos && dynamic_cast<const CLI::ValidationError*>(&error) != nullptr) {
    text = text.substr(0, colon) + " " + out_of_bounds(text.substr(colon + 2));
  }
  return str(text, "; see ", words, " --help");
}

}  // namespace tools
