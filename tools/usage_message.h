// What is wrong with a command line, in our own words: the parser's say little.
#pragma once

#include <string>

namespace CLI {
class App;
class ParseError;
}  // namespace CLI

namespace tools {

// One sentence: what is wrong, what it may have been meant for, and where to look.
std::string usage_message(const CLI::App& app, const CLI::ParseError& error);

}  // namespace tools
