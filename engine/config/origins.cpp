#include "engine/config/origins.h"

#include <nlohmann/json.hpp>

#include "engine/config/canonical.h"

namespace engine {
namespace {

using Json = nlohmann::ordered_json;
using Origins = std::map<std::string, std::string>;

void collect(const JsonValue& value, const std::string& key, const std::string& file, Origins& origins) {
  if (!key.empty())
    origins[key] =
        value.origin.empty() ? str(file, ":", value.position.line, ":", value.position.column) : value.origin;
  for (const JsonValue::Member& member : value.members)
    collect(member.value, key + (key.empty() ? "" : ".") + member.key, file, origins);
  for (size_t i = 0; i < value.items.size(); ++i) collect(value.items[i], str(key, "[", i, "]"), file, origins);
}

bool holds_objects(const Json& value) {
  return value.is_array() && !value.empty() && value[0].is_object();
}

void resolve(const Json& value, const std::string& key, const Origins& origins, Json& all) {
  if (value.is_object()) {
    for (const auto& [name, member] : value.items())
      resolve(member, key + (key.empty() ? "" : ".") + name, origins, all);
  } else if (holds_objects(value)) {
    for (size_t i = 0; i < value.size(); ++i) resolve(value[i], str(key, "[", i, "]"), origins, all);
  } else {
    const auto found = origins.find(key);
    all[key] = {{"value", value}, {"origin", found == origins.end() ? "default" : found->second}};
  }
}

}  // namespace

Origins origins_of(const JsonValue& root, const std::string& file) {
  Origins origins;
  collect(root, "", file, origins);
  return origins;
}

std::string resolved_json(const Config& config) {
  Json all = Json::object();
  resolve(Json::parse(canonical_json(config)), "", config.origins, all);
  std::string text = "{";
  for (const auto& [key, entry] : all.items())
    text += str(text.size() > 1 ? "," : "", "\n  ", Json(key).dump(), ": ", entry.dump());
  return text + "\n}\n";
}

}  // namespace engine
