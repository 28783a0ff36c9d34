// What else the field lists give: the canonical form of a config, its schema, and the meaning of each key.
#pragma once

#include <string>
#include <vector>

#include "engine/config/config.h"

namespace engine {

// Every key in the order of the field lists, indented; the same text for the same settings.
std::string canonical_json(const Config& config);

// JSON schema (draft-07) for editors; configs/schema.json is this text.
std::string schema_json();

struct KeyDescription {
  std::string key;       // "model.num_experts"
  std::string type;      // "integer", "number or string", ...
  std::string range;     // ">= 1", "one of ...", or empty
  std::string fallback;  // the default as JSON
  std::string help;
};
// Every key, depth first; elements of lists as "data.sources[].name".
std::vector<KeyDescription> describe_keys();

}  // namespace engine
