// Where the value of each key comes from: a place in the file, --set, or the default.
#pragma once

#include <map>
#include <string>

#include "engine/config/config.h"
#include "engine/config/json_reader.h"

namespace engine {

// By key, "data.sources[0].weight": "FILE:LINE:COLUMN" or "--set KEY=VALUE" of everything that `root` gives.
std::map<std::string, std::string> origins_of(const JsonValue& root, const std::string& file);

// One object with every key in the order of the field lists: {"seed": {"value": 7, "origin": "my.json:4:11"}, ...}.
std::string resolved_json(const Config& config);
// The config of such a text; `name` stands for the file in messages.
Config parse_resolved(const std::string& text, const std::string& name);

}  // namespace engine
