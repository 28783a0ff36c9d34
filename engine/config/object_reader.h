// Reads an object of a JSON file through the field list of its struct; every problem is told with its place.
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/config/fields.h"
#include "engine/config/json_reader.h"
#include "engine/config/problems.h"
#include "engine/config/units.h"

namespace engine {

template <class T>
concept HasFields = requires(T object, struct AnyVisitor& visitor) {
  object.template fields<AnyVisitor>(visitor);
};

// Lists the keys of one object.
struct KeyList {
  std::vector<std::string> keys;
  template <class T>
  void operator()(const char* name, T&, const Bounds&, const char*) {
    keys.push_back(name);
  }
};

// Reads one object; values that are not there keep their defaults.
class ObjectReader {
 public:
  ObjectReader(const JsonValue& object, std::string path, Problems& problems)
      : object_(object), path_(std::move(path)), problems_(problems) {}

  template <class T>
  void read(T& target) {
    target.fields(*this);
    KeyList list;
    target.fields(list);
    for (const JsonValue::Member& member : object_.members) {
      if (member.key.starts_with("x-")) continue;
      if (std::find(list.keys.begin(), list.keys.end(), member.key) != list.keys.end()) continue;
      const std::string near = nearest(member.key, list.keys);
      problems_.add(member.position, member.value.origin,
                    str("unknown key \"", member.key, "\"", path_.empty() ? "" : " in " + path_),
                    near.empty() ? "" : str("did you mean \"", near, "\"?"));
    }
  }

  template <class T>
  void operator()(const char* name, T& field, const Bounds& bounds, const char*) {
    const JsonValue* value = object_.find(name);
    key_ = path_.empty() ? name : path_ + "." + name;
    if (value != nullptr) {
      read_value(*value, field, bounds);
    } else if (bounds.must_be_given) {
      problems_.add(object_.position, object_.origin, str(path_, " needs a \"", name, "\""));
    }
  }

 private:
  void wrong(const JsonValue& value, const std::string& expected) {
    const std::string got = value.type == JsonValue::Type::string    ? str("\"", value.string, "\"")
                            : value.type == JsonValue::Type::boolean ? (value.boolean ? "true" : "false")
                            : value.type == JsonValue::Type::integer ? std::to_string(value.integer)
                            : value.type == JsonValue::Type::number  ? number_text(value.number)
                                                                     : json_type_name(value.type);
    problems_.add(value.position, value.origin, str(key_, " is ", got, " but must be ", expected));
  }

  static std::string range(const std::string& noun, const Bounds& bounds) {
    const bool low = bounds.low > -1e300, high = bounds.high < 1e300;
    if (low && high && bounds.low == bounds.high) return number_text(bounds.low);
    if (low && high) return str(noun, " from ", number_text(bounds.low), " to ", number_text(bounds.high));
    if (low) return str(noun, bounds.excludes_low ? " above " : " of at least ", number_text(bounds.low));
    return noun;
  }
  static bool within(double x, const Bounds& bounds) {
    return x <= bounds.high && (bounds.excludes_low ? x > bounds.low : x >= bounds.low);
  }

  // An integer, also where it is written as 1e3 or 2.0, as programs do.
  static std::optional<int64_t> whole(const JsonValue& value) {
    constexpr double kLargest = 9007199254740992;  // beyond it not every integer is a double
    if (value.type == JsonValue::Type::integer) return value.integer;
    const bool is_whole = value.type == JsonValue::Type::number && std::fabs(value.number) <= kLargest &&
                          value.number == std::floor(value.number);
    return is_whole ? std::optional(static_cast<int64_t>(value.number)) : std::nullopt;
  }

  void read_value(const JsonValue& value, bool& field, const Bounds&) {
    if (value.type != JsonValue::Type::boolean) return wrong(value, "true or false");
    field = value.boolean;
  }
  void read_value(const JsonValue& value, int64_t& field, const Bounds& bounds) {
    if (!whole(value) || !within(value.number, bounds)) return wrong(value, range("an integer", bounds));
    field = *whole(value);
  }
  void read_value(const JsonValue& value, double& field, const Bounds& bounds) {
    if (!value.is_number() || !within(value.number, bounds)) return wrong(value, range("a number", bounds));
    field = value.number;
  }
  void read_value(const JsonValue& value, std::string& field, const Bounds& bounds) {
    const bool known = bounds.choices.empty() ||
                       std::find(bounds.choices.begin(), bounds.choices.end(), value.string) != bounds.choices.end();
    if (value.type != JsonValue::Type::string || !known) {
      std::string choices;
      for (const std::string& choice : bounds.choices) choices += (choices.empty() ? "\"" : ", \"") + choice + "\"";
      return wrong(value, choices.empty() ? "a string" : "one of " + choices);
    }
    field = value.string;
  }
  template <class Quantity, class Parse>
  void read_quantity(const JsonValue& value, Quantity& field, double& number, Parse parse, const Bounds& bounds,
                     const char* example) {
    bool valid = value.is_number();
    if (valid) number = value.number;
    if (value.type == JsonValue::Type::string) {
      if (const auto parsed = parse(value.string)) {
        field = *parsed;
        number = quantity_number(field);
        valid = true;
      }
    }
    if (!valid || !within(number, bounds)) wrong(value, range("a number", bounds) + " or " + example);
  }
  static double quantity_number(const Count& c) { return static_cast<double>(c.value); }
  static double quantity_number(const ByteCount& c) { return static_cast<double>(c.value); }
  static double quantity_number(const Duration& d) { return d.seconds; }
  void read_value(const JsonValue& value, Count& field, const Bounds& bounds) {
    if (value.is_number() && !whole(value)) return wrong(value, range("a whole number", bounds));
    double number = 0;
    read_quantity(value, field, number, parse_count, bounds, "a string like \"5M\"");
    if (value.is_number()) field.value = *whole(value);
  }
  void read_value(const JsonValue& value, ByteCount& field, const Bounds& bounds) {
    if (value.is_number() && !whole(value)) return wrong(value, range("a whole number", bounds));
    double number = 0;
    read_quantity(value, field, number, parse_bytes, bounds, "a string like \"5 MB\"");
    if (value.is_number()) field.value = *whole(value);
  }
  void read_value(const JsonValue& value, Duration& field, const Bounds& bounds) {
    double number = 0;
    read_quantity(value, field, number, parse_duration, bounds, "a string like \"10 min\"");
    if (value.is_number()) field.seconds = value.number;
  }
  void read_value(const JsonValue& value, AutoOr& field, const Bounds& bounds) {
    if (value.type == JsonValue::Type::string && value.string == "auto") {
      field.value.reset();
    } else if (whole(value) && within(value.number, bounds)) {
      field.value = whole(value);
    } else {
      wrong(value, range("\"auto\" or an integer", bounds));
    }
  }
  template <class T>
  void read_value(const JsonValue& value, std::optional<T>& field, const Bounds& bounds) {
    field.reset();
    if (value.type == JsonValue::Type::null) return;
    read_value(value, field.emplace(), bounds);
  }
  template <class T>
  void read_value(const JsonValue& value, std::vector<T>& field, const Bounds& bounds) {
    field.clear();
    if constexpr (std::same_as<T, std::string>) {
      if (value.type == JsonValue::Type::string) return field.push_back(value.string);
    }
    if (value.type != JsonValue::Type::array) return wrong(value, "a list");
    const std::string key = key_;
    for (size_t i = 0; i < value.items.size(); ++i) {
      key_ = str(key, "[", i, "]");
      read_value(value.items[i], field.emplace_back(), bounds);
    }
  }
  template <HasFields T>
  void read_value(const JsonValue& value, T& field, const Bounds&) {
    if (value.type != JsonValue::Type::object) return wrong(value, "an object");
    ObjectReader(value, key_, problems_).read(field);
  }

  const JsonValue& object_;
  std::string path_, key_;
  Problems& problems_;
};

}  // namespace engine
