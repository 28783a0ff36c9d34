// Reads a config file through the field lists of config.h.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "engine/config/config.h"

namespace engine {

// The config in `path` with each "key.of.key=VALUE" of `sets` on top (VALUE is JSON, otherwise a string), checked.
// Throws Error(usage) with every problem in it. Relative paths in it are relative to config.directory.
Config load_config(const std::string& path, const std::vector<std::string>& sets);

// The same from a text; `name` stands for the file in messages.
Config parse_config(std::string_view text, const std::string& name, const std::vector<std::string>& sets);

}  // namespace engine
