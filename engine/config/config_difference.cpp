#include "engine/config/config_difference.h"

#include <nlohmann/json.hpp>
#include <set>

#include "engine/config/canonical.h"

namespace engine {
namespace {

using Json = nlohmann::ordered_json;

// "/data/sources/0/name" -> "data.sources[0].name"
std::string dotted(const std::string& pointer) {
  std::string key;
  for (size_t begin = 1; begin <= pointer.size();) {
    const size_t end = std::min(pointer.find('/', begin), pointer.size());
    const std::string part = pointer.substr(begin, end - begin);
    const bool is_index = !part.empty() && part.find_first_not_of("0123456789") == std::string::npos;
    key += is_index ? "[" + part + "]" : (key.empty() ? "" : ".") + part;
    begin = end + 1;
  }
  return key;
}

// An empty list is nothing here; what it lacks is named element by element.
std::string value_of(const Json& flat, const std::string& key) {
  return flat.contains(key) && !flat[key].is_null() ? flat[key].dump() : "nothing";
}

}  // namespace

std::vector<std::string> config_differences(const Config& there, const Config& here) {
  const Json a = Json::parse(canonical_json(there)).flatten(), b = Json::parse(canonical_json(here)).flatten();
  std::vector<std::string> differences;
  const auto compare = [&](const std::string& key) {
    const std::string then = value_of(a, key), now = value_of(b, key);
    if (then != now) differences.push_back(dotted(key) + ": " + then + " there, " + now + " here");
  };
  for (const auto& [key, value] : a.items()) compare(key);
  for (const auto& [key, value] : b.items()) {
    if (!a.contains(key)) compare(key);
  }
  return differences;
}

}  // namespace engine
