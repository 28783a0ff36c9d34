#include "engine/config/reader.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "engine/config/check.h"
#include "engine/config/json_reader.h"
#include "engine/config/object_reader.h"
#include "engine/config/origins.h"
#include "engine/config/problems.h"

namespace engine {
namespace {

// Puts VALUE of "a.b=VALUE" into the tree.
void apply_set(JsonValue& root, const std::string& set, Problems& problems) {
  const std::string origin = "--set " + set;
  const size_t equals = set.find('=');
  if (equals == std::string::npos || equals == 0) {
    return problems.add({}, origin, "expected KEY=VALUE, e.g. --set optim.lr=1e-3");
  }
  JsonValue value;
  try {
    value = read_json(set.substr(equals + 1), {}, ExitCode::usage);
  } catch (const JsonError&) {
    value.type = JsonValue::Type::string;
    value.string = set.substr(equals + 1);
  }
  JsonValue* at = &root;
  std::string path = set.substr(0, equals);
  while (true) {
    const size_t dot = path.find('.');
    std::string key = path.substr(0, dot);
    int64_t index = -1;
    if (const size_t bracket = key.find('['); bracket != std::string::npos && key.back() == ']') {
      index = std::atoll(key.c_str() + bracket + 1);
      key.resize(bracket);
    }
    if (at->type != JsonValue::Type::object)
      return problems.add({}, origin, str("there is no key \"", path, "\" in a value that is no object"));
    if (at->find(key) == nullptr) {
      JsonValue object;
      object.type = JsonValue::Type::object;
      object.origin = origin;
      at->members.push_back({key, {}, object});
    }
    at = const_cast<JsonValue*>(at->find(key));
    if (index >= 0) {
      if (at->type != JsonValue::Type::array || index >= static_cast<int64_t>(at->items.size())) {
        return problems.add({}, origin,
                            at->type == JsonValue::Type::array
                                ? str(key, " has ", at->items.size(), " elements, numbered from 0")
                                : str(key, " is no list"));
      }
      at = &at->items[static_cast<size_t>(index)];
    }
    if (dot == std::string::npos) break;
    path = path.substr(dot + 1);
  }
  value.origin = origin;
  for (JsonValue& item : value.items) item.origin = origin;
  *at = value;
}

}  // namespace

Config parse_config(std::string_view text, const std::string& name, const std::vector<std::string>& sets) {
  Problems problems(name, std::string(text));
  Config config;
  JsonValue root;
  try {
    root = read_json(text, {.comments = true}, ExitCode::usage);
  } catch (const JsonError& error) {
    problems.add(error.position(), "", error.what());
    problems.raise();
  }
  if (root.type != JsonValue::Type::object) {
    problems.add(root.position, "", str("a config is an object, not ", json_type_name(root.type)));
    problems.raise();
  }
  for (const std::string& set : sets) apply_set(root, set, problems);
  ObjectReader(root, "", problems).read(config);
  if (!problems.empty()) problems.raise();
  resolve(config);
  check_config(config, root, problems);
  if (!problems.empty()) problems.raise();
  config.origins = origins_of(root, name);
  return config;
}

Config load_config(const std::string& path, const std::vector<std::string>& sets) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) {
    throw Error(ExitCode::usage, str(path, " is a directory; give the config file in it"));
  }
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    throw Error(ExitCode::usage, str("config file ", path, " cannot be read (", std::strerror(errno),
                                     "); give the path of a JSON file, e.g. configs/tiny.json"));
  }
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  Config config = parse_config(text, path, sets);
  config.directory = std::filesystem::path(path).parent_path().string();
  config.text = text;
  return config;
}

}  // namespace engine
