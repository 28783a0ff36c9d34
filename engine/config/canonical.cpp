#include "engine/config/canonical.h"

#include <nlohmann/json.hpp>
#include <type_traits>

#include "engine/config/json_reader.h"

namespace engine {
namespace {

using Json = nlohmann::ordered_json;

struct AnyVisitor;
template <class T>
concept HasFields = requires(T object, AnyVisitor& visitor) {
  object.template fields<AnyVisitor>(visitor);
};

template <class T>
struct IsOptional : std::false_type {};
template <class T>
struct IsOptional<std::optional<T>> : std::true_type {};
template <class T>
struct IsVector : std::false_type {};
template <class T>
struct IsVector<std::vector<T>> : std::true_type {};

Json value_of(bool x) {
  return x;
}
Json value_of(int64_t x) {
  return x;
}
Json value_of(double x) {
  return x;
}
Json value_of(const std::string& x) {
  return x;
}
Json value_of(Count x) {
  return x.value;
}
Json value_of(ByteCount x) {
  return x.value;
}
Json value_of(Duration x) {
  return x.seconds;
}
Json value_of(AutoOr x) {
  return x.value ? Json(*x.value) : Json("auto");
}
template <class T>
Json value_of(const std::optional<T>& x) {
  return x ? value_of(*x) : Json(nullptr);
}
template <HasFields T>
Json value_of(const T& x);
template <class T>
Json value_of(const std::vector<T>& x) {
  Json list = Json::array();
  for (const T& item : x) list.push_back(value_of(item));
  return list;
}

struct ValueWriter {
  Json object = Json::object();
  template <class T>
  void operator()(const char* name, T& field, const Bounds&, const char*) {
    if (std::string(name) != "$schema") object[name] = value_of(field);
  }
};
template <HasFields T>
Json value_of(const T& x) {
  ValueWriter writer;
  T copy = x;  // field lists take references
  copy.fields(writer);
  return writer.object;
}

// The JSON types of a key.
template <class T>
std::vector<std::string> types_of() {
  if constexpr (std::is_same_v<T, bool>) return {"boolean"};
  if constexpr (std::is_same_v<T, int64_t>) return {"integer"};
  if constexpr (std::is_same_v<T, double>) return {"number"};
  if constexpr (std::is_same_v<T, std::string>) return {"string"};
  if constexpr (std::is_same_v<T, Count> || std::is_same_v<T, ByteCount>) return {"integer", "string"};
  if constexpr (std::is_same_v<T, Duration>) return {"number", "string"};
  if constexpr (std::is_same_v<T, AutoOr>) return {"integer", "string"};
  if constexpr (std::is_same_v<T, std::vector<std::string>>) return {"string", "array"};
  if constexpr (IsVector<T>::value) return {"array"};
  if constexpr (HasFields<T>) return {"object"};
  if constexpr (IsOptional<T>::value) {
    std::vector<std::string> types = types_of<typename T::value_type>();
    types.push_back("null");
    return types;
  }
  return {};
}

Json bound_number(double x) {
  return x == static_cast<double>(static_cast<int64_t>(x)) ? Json(static_cast<int64_t>(x)) : Json(x);
}

void add_bounds(Json& schema, const Bounds& bounds) {
  if (bounds.low > -1e300) schema[bounds.excludes_low ? "exclusiveMinimum" : "minimum"] = bound_number(bounds.low);
  if (bounds.high < 1e300) schema["maximum"] = bound_number(bounds.high);
  if (!bounds.choices.empty()) schema["enum"] = bounds.choices;
}

template <class T>
Json schema_of();

template <class T>
Json schema_of_type(const Bounds& bounds) {
  Json schema = Json::object();
  if constexpr (IsOptional<T>::value) {
    schema = schema_of_type<typename T::value_type>(bounds);
    schema["type"] = types_of<T>();
  } else if constexpr (IsVector<T>::value) {
    const std::vector<std::string> types = types_of<T>();
    schema["type"] = types.size() == 1 ? Json(types[0]) : Json(types);
    if constexpr (HasFields<typename T::value_type>) {
      schema["items"] = schema_of<typename T::value_type>();
    } else {
      schema["items"] = schema_of_type<typename T::value_type>(bounds);
    }
  } else if constexpr (HasFields<T>) {
    schema = schema_of<T>();
  } else if constexpr (std::is_same_v<T, AutoOr>) {
    Json number = {{"type", "integer"}};
    add_bounds(number, bounds);
    schema["anyOf"] = {number, {{"const", "auto"}}};
  } else {
    const std::vector<std::string> types = types_of<T>();
    schema["type"] = types.size() == 1 ? Json(types[0]) : Json(types);
    add_bounds(schema, bounds);
  }
  return schema;
}

struct SchemaWriter {
  Json properties = Json::object(), required = Json::array();
  template <class T>
  void operator()(const char* name, T& field, const Bounds& bounds, const char* help) {
    Json schema = schema_of_type<T>(bounds);
    schema["description"] = help;
    if (bounds.must_be_given) {
      required.push_back(name);
    } else if constexpr (!HasFields<T>) {
      schema["default"] = value_of(field);
    }
    properties[name] = schema;
  }
};

template <class T>
Json schema_of() {
  T object;
  SchemaWriter writer;
  object.fields(writer);
  Json schema = {{"type", "object"}, {"properties", writer.properties}};
  if (!writer.required.empty()) schema["required"] = writer.required;
  schema["patternProperties"] = {{"^x-", Json::object()}};
  schema["additionalProperties"] = false;
  return schema;
}

struct KeyDescriber {
  std::string prefix;
  std::vector<KeyDescription>& keys;

  template <class T>
  void operator()(const char* name, T& field, const Bounds& bounds, const char* help) {
    const std::string key = prefix + name;
    std::string type;
    for (const std::string& t : types_of<T>()) type += (type.empty() ? "" : " or ") + t;
    keys.push_back({key, type, range_text(bounds), bounds.must_be_given ? "none" : value_of(field).dump(), help});
    if constexpr (HasFields<T>) {
      keys.back().fallback.clear();
      KeyDescriber inner{key + ".", keys};
      field.fields(inner);
    } else if constexpr (IsVector<T>::value) {
      if constexpr (HasFields<typename T::value_type>) {
        typename T::value_type element;
        KeyDescriber inner{key + "[].", keys};
        element.fields(inner);
      }
    }
  }

  static std::string range_text(const Bounds& bounds) {
    std::string text;
    if (bounds.low > -1e300) text = (bounds.excludes_low ? "> " : ">= ") + number_text(bounds.low);
    if (bounds.high < 1e300) text += (text.empty() ? "<= " : " and <= ") + number_text(bounds.high);
    for (const std::string& choice : bounds.choices) text += (text.empty() ? "one of " : ", ") + choice;
    return text;
  }
};

}  // namespace

std::string canonical_json(const Config& config) {
  return value_of(config).dump(2) + "\n";
}

std::string schema_json() {
  Json schema = {{"$schema", "http://json-schema.org/draft-07/schema#"}, {"title", "Switchyard config"}};
  schema.update(schema_of<Config>());
  return schema.dump(2) + "\n";
}

std::vector<KeyDescription> describe_keys() {
  std::vector<KeyDescription> keys;
  Config config;
  KeyDescriber describer{"", keys};
  config.fields(describer);
  return keys;
}

}  // namespace engine
