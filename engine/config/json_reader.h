// The project's one JSON reader: strict, and every value knows where it stands.
//
// nlohmann::json splits the text; duplicate keys, nesting beyond 64, text beyond the size limit, integers beyond 64
// bits, invalid UTF-8 and anything after the value are errors. Comments are allowed where asked for. Takes time and
// memory in proportion to the text, whatever it holds.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/core/error.h"

namespace engine {

struct JsonPosition {
  int64_t line = 0, column = 0, length = 1;  // from 1; line 0: not from a file
};

struct JsonValue {
  enum class Type { null, boolean, integer, number, string, array, object };
  struct Member;

  Type type = Type::null;
  bool boolean = false;
  int64_t integer = 0;
  double number = 0;  // of integers, too
  std::string string;
  std::vector<JsonValue> items;
  std::vector<Member> members;  // in the order of the text
  JsonPosition position;
  std::string origin;  // "--set key=value" where it does not come from the text

  const JsonValue* find(std::string_view key) const;
  bool is_number() const { return type == Type::integer || type == Type::number; }

  // For files written by this program: the member, or Error(code) naming the key.
  const JsonValue& at(std::string_view key, ExitCode code) const;
};
struct JsonValue::Member {
  std::string key;
  JsonPosition position;
  JsonValue value;
};

const char* json_type_name(JsonValue::Type type);

struct JsonLimits {
  int64_t max_bytes = 1 << 20;
  int max_depth = 64;
  int64_t max_values = int64_t{1} << 24;
  bool comments = false;
};

// What is wrong with a text, and where.
class JsonError : public Error {
 public:
  JsonError(ExitCode code, JsonPosition position, const std::string& message)
      : Error(code, message), position_(position) {}
  JsonPosition position() const { return position_; }

 private:
  JsonPosition position_;
};

JsonValue read_json(std::string_view text, const JsonLimits& limits, ExitCode code);

// A number as text that gives the same double back, independent of the locale.
std::string number_text(double value);

// A string with its quotes and escapes; what is not UTF-8 is replaced.
std::string json_string(const std::string& text);

}  // namespace engine
