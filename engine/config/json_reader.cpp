#include "engine/config/json_reader.h"

#include <algorithm>
#include <charconv>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>

namespace engine {

const JsonValue* JsonValue::find(std::string_view key) const {
  for (const Member& member : members) {
    if (member.key == key) return &member.value;
  }
  return nullptr;
}

const JsonValue& JsonValue::at(std::string_view key, ExitCode code) const {
  const JsonValue* value = find(key);
  if (value == nullptr) throw Error(code, str("there is no \"", key, "\" where one is needed"));
  return *value;
}

const char* json_type_name(JsonValue::Type type) {
  switch (type) {
    case JsonValue::Type::null:
      return "null";
    case JsonValue::Type::boolean:
      return "true or false";
    case JsonValue::Type::integer:
      return "an integer";
    case JsonValue::Type::number:
      return "a number";
    case JsonValue::Type::string:
      return "a string";
    case JsonValue::Type::array:
      return "a list";
    case JsonValue::Type::object:
      return "an object";
  }
  return "?";
}

std::string number_text(double value) {
  char text[40];
  return std::string(text, std::to_chars(text, text + sizeof(text), value).ptr);
}

std::string json_string(const std::string& text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

namespace {

// Feeds the parser and counts what it has taken, which tells where each token ends.
class CountingIterator {
 public:
  using difference_type = std::ptrdiff_t;
  using value_type = char;
  using pointer = const char*;
  using reference = const char&;
  using iterator_category = std::input_iterator_tag;

  CountingIterator(const char* at, int64_t* taken) : at_(at), taken_(taken) {}
  reference operator*() const { return *at_; }
  CountingIterator& operator++() {
    ++at_;
    if (taken_ != nullptr) ++*taken_;
    return *this;
  }
  CountingIterator operator++(int) {
    CountingIterator before = *this;
    ++*this;
    return before;
  }
  bool operator==(const CountingIterator& other) const { return at_ == other.at_; }
  bool operator!=(const CountingIterator& other) const { return at_ != other.at_; }

 private:
  const char* at_;
  int64_t* taken_;
};

// An object or array that is being read. Keys of a large object are found by a map.
struct OpenValue {
  JsonValue* value;
  std::map<std::string, int64_t> lines = {};

  // Where a key of the object stands already; 0 if nowhere.
  int64_t line_of(const std::string& key) {
    const std::vector<JsonValue::Member>& members = value->members;
    if (members.size() < 16) {
      const auto same = [&key](const JsonValue::Member& member) { return member.key == key; };
      const auto found = std::find_if(members.begin(), members.end(), same);
      return found == members.end() ? 0 : found->position.line;
    }
    for (size_t i = lines.size(); i < members.size(); ++i) lines[members[i].key] = members[i].position.line;
    const auto found = lines.find(key);
    return found == lines.end() ? 0 : found->second;
  }
};

class TreeBuilder : public nlohmann::json_sax<nlohmann::json> {
 public:
  TreeBuilder(std::string_view text, const JsonLimits& limits, ExitCode code)
      : text_(text), limits_(limits), code_(code) {}

  int64_t* taken() { return &taken_; }
  [[noreturn]] void refuse_zero(size_t offset) {
    throw JsonError(code_, position_of(static_cast<int64_t>(offset)), "not valid JSON: there is a zero byte");
  }
  JsonValue take() { return std::move(root_); }

  bool null() override { return add(JsonValue{}); }
  bool boolean(bool value) override {
    JsonValue v = of(JsonValue::Type::boolean);
    v.boolean = value;
    return add(std::move(v));
  }
  bool number_integer(number_integer_t value) override { return add_integer(value); }
  bool number_unsigned(number_unsigned_t value) override {
    if (value > static_cast<uint64_t>(INT64_MAX)) fail_here(str("the number ", value, " is larger than ", INT64_MAX));
    return add_integer(static_cast<int64_t>(value));
  }
  bool number_float(number_float_t, const string_t& text) override {
    if (text.find_first_of(".eE") == std::string::npos)
      fail_here(str("the number ", text, " is larger than ", INT64_MAX));
    double value = 0;
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size())
      fail_here(str("the number ", text, " is out of range"));
    JsonValue v = of(JsonValue::Type::number);
    v.number = value;
    return add(std::move(v));
  }
  bool string(string_t& value) override {
    JsonValue v = of(JsonValue::Type::string);
    v.string = value;
    return add(std::move(v));
  }
  bool binary(binary_t&) override { return false; }
  bool start_object(std::size_t) override { return open(JsonValue::Type::object); }
  bool start_array(std::size_t) override { return open(JsonValue::Type::array); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(string_t& value) override {
    const JsonPosition position = token_position();
    if (const int64_t line = open_.back().line_of(value); line > 0) {
      throw JsonError(code_, position, str("the key \"", value, "\" stands twice, first in line ", line));
    }
    open_.back().value->members.push_back({value, position, {}});
    return true;
  }
  bool parse_error(std::size_t position, const std::string& token, const nlohmann::detail::exception& error) override {
    // "[json.exception.parse_error.101] parse error at line 1, column 2: syntax error while ...": the last part
    std::string message = error.what();
    for (const char* end_of_prefix : {"] ", ": ", " - "}) {
      const size_t end = message.find(end_of_prefix);
      if (end != std::string::npos) message = message.substr(end + std::string(end_of_prefix).size());
    }
    // what was read last is shown with the line, and may be all of the file
    if (const size_t last = message.find("; last read: "); last != std::string::npos) {
      const size_t end = message.rfind("'; expected ");
      message = message.substr(0, last) + (end != std::string::npos && end > last ? message.substr(end + 1) : "");
    }
    (void)token;
    const int64_t offset = std::max<int64_t>(0, static_cast<int64_t>(position) - 1);
    throw JsonError(code_, position_of(offset), str("not valid JSON: ", message));
  }

 private:
  static JsonValue of(JsonValue::Type type) {
    JsonValue value;
    value.type = type;
    return value;
  }
  bool add_integer(int64_t value) {
    JsonValue v = of(JsonValue::Type::integer);
    v.integer = value;
    v.number = static_cast<double>(value);
    return add(std::move(v));
  }
  bool add(JsonValue value) {
    value.position = token_position();
    count_value(value.position);
    *slot() = std::move(value);
    return true;
  }
  bool open(JsonValue::Type type) {
    JsonValue value = of(type);
    value.position = token_position();
    if (static_cast<int>(open_.size()) >= limits_.max_depth) {
      throw JsonError(code_, value.position, str("values are nested more than ", limits_.max_depth, " deep"));
    }
    count_value(value.position);
    JsonValue* place = slot();
    *place = std::move(value);
    open_.push_back({place});
    return true;
  }
  void count_value(const JsonPosition& position) {
    if (++values_ <= limits_.max_values) return;
    throw JsonError(code_, position, str("there are more than ", limits_.max_values, " values"));
  }
  bool close() {
    open_.pop_back();
    last_end_ = taken_;
    return true;
  }
  // Where the next value goes. A container's vector grows only while the container is the innermost open one, so
  // pointers to open containers stay valid.
  JsonValue* slot() {
    if (open_.empty()) return &root_;
    JsonValue* parent = open_.back().value;
    if (parent->type == JsonValue::Type::object) return &parent->members.back().value;
    return &parent->items.emplace_back();
  }
  // The token that was just read: it begins at the first character after the previous one that is no separator.
  JsonPosition token_position() {
    int64_t begin = skip_separators(last_end_);
    JsonPosition position = position_of(begin);
    position.length = std::max<int64_t>(1, std::min(taken_, static_cast<int64_t>(text_.size())) - begin);
    last_end_ = taken_;
    return position;
  }
  int64_t skip_separators(int64_t at) const {
    const int64_t size = static_cast<int64_t>(text_.size());
    while (at < size) {
      const char c = text_[static_cast<size_t>(at)];
      if (c == '/' && at + 1 < size) {
        at = end_of_comment(static_cast<size_t>(at));
      } else if (std::string_view(" \t\r\n,:").find(c) != std::string_view::npos) {
        ++at;
      } else {
        break;
      }
    }
    return at;
  }
  // As the parser sees it: // ends with the line, by \r or \n.
  int64_t end_of_comment(size_t at) const {
    const bool block = text_[at + 1] == '*';
    const size_t end = block ? text_.find("*/", at + 2) : text_.find_first_of("\r\n", at + 2);
    return static_cast<int64_t>(end == std::string_view::npos ? text_.size() : end + (block ? 2 : 1));
  }
  // Goes on counting from the place that was asked for last.
  JsonPosition position_of(int64_t offset) {
    offset = std::min(offset, static_cast<int64_t>(text_.size()));
    if (offset < counted_) counted_ = 0, counted_position_ = {1, 1, 1};
    for (; counted_ < offset; ++counted_) {
      if (text_[static_cast<size_t>(counted_)] == '\n') {
        ++counted_position_.line;
        counted_position_.column = 1;
      } else {
        ++counted_position_.column;
      }
    }
    return counted_position_;
  }
  [[noreturn]] void fail_here(const std::string& message) { throw JsonError(code_, token_position(), message); }

  std::string_view text_;
  JsonLimits limits_;
  ExitCode code_;
  JsonValue root_;
  std::vector<OpenValue> open_;
  int64_t taken_ = 0, last_end_ = 0, values_ = 0;
  int64_t counted_ = 0;  // characters before counted_position_
  JsonPosition counted_position_{1, 1, 1};
};

}  // namespace

JsonValue read_json(std::string_view text, const JsonLimits& limits, ExitCode code) {
  if (static_cast<int64_t>(text.size()) > limits.max_bytes) {
    throw JsonError(code, {1, 1, 1}, str("the text has ", text.size(), " bytes but may have ", limits.max_bytes));
  }
  TreeBuilder builder(text, limits, code);
  // the parser would take it for the end of the text
  if (const size_t zero = text.find('\0'); zero != std::string_view::npos) builder.refuse_zero(zero);
  nlohmann::json::sax_parse(CountingIterator(text.data(), builder.taken()),
                            CountingIterator(text.data() + text.size(), nullptr), &builder,
                            nlohmann::json::input_format_t::json, true, limits.comments);
  return builder.take();
}

}  // namespace engine
