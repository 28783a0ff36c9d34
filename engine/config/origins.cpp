#include "engine/config/origins.h"

#include <nlohmann/json.hpp>

#include "engine/config/canonical.h"
#include "engine/config/reader.h"

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

Config parse_resolved(const std::string& text, const std::string& name) {
  const Json all = Json::parse(text, nullptr, false);
  if (!all.is_object()) throw Error(ExitCode::data, str(name, " is not what a run writes; take another run directory"));
  Json config = Json::object();
  for (const auto& [key, entry] : all.items()) {
    std::string place = "/";  // data.sources[0].weight is /data/sources/0/weight
    for (char c : key) {
      if (c != ']') place += c == '.' || c == '[' ? '/' : c;
    }
    config[Json::json_pointer(place)] = entry.is_object() ? entry.value("value", Json()) : Json();
  }
  return parse_config(config.dump(), name, {});
}

}  // namespace engine
