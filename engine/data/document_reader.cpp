#include "engine/data/document_reader.h"

#include <nlohmann/json.hpp>

#include "engine/core/error.h"
#include "engine/data/text_stream.h"

namespace engine::data {
namespace {

constexpr int64_t kLongestLine = int64_t{256} << 20;

// Picks the string "text" out of one object and builds nothing of the rest.
class TextPicker : public nlohmann::json_sax<nlohmann::json> {
 public:
  std::string text, problem;
  bool found = false;

  bool null() override { return other("null"); }
  bool boolean(bool) override { return other("true or false"); }
  bool number_integer(number_integer_t) override { return other("a number"); }
  bool number_unsigned(number_unsigned_t) override { return other("a number"); }
  bool number_float(number_float_t, const string_t&) override { return other("a number"); }
  bool binary(binary_t&) override { return other("binary data"); }
  bool string(string_t& value) override {
    if (depth_ == 0) return fail("it is a string");
    if (depth_ == 1 && at_text_) text = std::move(value), found = true;
    at_text_ = at_text_ && depth_ != 1;
    return true;
  }
  bool start_object(std::size_t) override {
    if (depth_ > 0 && !other("an object")) return false;
    ++depth_;
    return true;
  }
  bool start_array(std::size_t) override {
    if (!other("a list")) return false;
    ++depth_;
    return true;
  }
  bool end_object() override { return --depth_, true; }
  bool end_array() override { return --depth_, true; }
  bool key(string_t& value) override {
    if (depth_ != 1) return true;
    at_text_ = value == "text";
    return at_text_ && found ? fail("the key \"text\" stands in it twice") : true;
  }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) override {
    return fail(str("no valid JSON at byte ", position, " of the line"));
  }

 private:
  bool fail(const std::string& message) {
    problem = message;
    return false;
  }
  // A value that is no string.
  bool other(const char* what) {
    if (depth_ == 0) return fail(str("it is ", what));
    return depth_ == 1 && at_text_ ? fail(str("its \"text\" is ", what)) : true;
  }
  int depth_ = 0;
  bool at_text_ = false;
};

// What is wrong with a line, or an empty string.
std::string read_record(const std::string& line, std::string& text) {
  TextPicker picker;
  nlohmann::json::sax_parse(line, &picker);
  if (picker.problem.empty() && !picker.found) picker.problem = "it has no \"text\"";
  text = std::move(picker.text);
  return std::move(picker.problem);
}

void read_json_lines(TextStream& stream, const std::string& name, const std::function<void(Document)>& take,
                     const BadRecordUse& bad_record) {
  std::string line;
  int64_t number = 1, begin = 0, length = 0;  // of the line that is being read
  const auto add = [&](std::string_view piece) {
    const bool was_too_long = length > kLongestLine;
    length += static_cast<int64_t>(piece.size());
    if (length <= kLongestLine) {
      line += piece;
    } else if (!was_too_long) {
      std::string().swap(line);
      bad_record(str(name, ":", number), str("it has more than ", kLongestLine >> 20, " MiB"));
    }
  };
  const auto end_line = [&] {
    Document document{.path = name, .text = {}, .line = number, .line_begin = begin};
    if (length <= kLongestLine) {
      const std::string problem = read_record(line, document.text);
      problem.empty() ? take(std::move(document)) : bad_record(str(name, ":", number), problem);
    }
    begin += length + 1, length = 0, ++number;
    line.clear();
  };
  for (std::string_view piece = stream.next(); !piece.empty(); piece = stream.next()) {
    for (size_t end = piece.find('\n'); end != std::string_view::npos; end = piece.find('\n')) {
      add(piece.substr(0, end));
      piece.remove_prefix(end + 1);
      end_line();
    }
    add(piece);
  }
  if (stream.problem().empty() && length > 0) end_line();
  if (!stream.problem().empty() && number > 1) {
    throw Error(ExitCode::data, str(name, ": ", stream.problem(), " after line ", number - 1,
                                    "; make the file anew or leave it out of data.sources"));
  }
}

int64_t piece_bytes(std::string_view piece) {
  return static_cast<int64_t>(piece.size());
}

}  // namespace

std::string bad_record_message(const std::string& place, const std::string& problem) {
  return str(place, ": a line of a .jsonl file must be an object like {\"text\": \"...\"} but ", problem,
             "; mend the line or take it out");
}

std::string read_documents(const std::string& place, const std::string& name, int64_t max_text, FileFacts& facts,
                           const std::function<void(Document)>& take, TextKeeper* keeper,
                           const BadRecordUse& bad_record) {
  TextStream stream(place);
  if (without_compression_suffix(name).ends_with(".jsonl")) {
    const auto refuse = [](const std::string& record, const std::string& problem) {
      throw Error(ExitCode::data, bad_record_message(record, problem));
    };
    read_json_lines(stream, name, take, bad_record ? bad_record : refuse);
  } else {
    Document document{.path = name, .text = {}};
    for (std::string_view piece = stream.next(); !piece.empty(); piece = stream.next()) {
      piece = piece.substr(0, static_cast<size_t>(max_text - document.bytes()));
      if (piece.find('\0') != std::string_view::npos) return kNotText;  // however much of it there is
      if (!document.spill && keeper != nullptr && document.bytes() + piece_bytes(piece) > keeper->most_held / 4)
        document.move_to(keeper->file());
      if (document.spill) {
        document.spill->append(piece);  // nothing else is written between the pieces
        document.spill_bytes += piece_bytes(piece);
      } else {
        document.text += piece;
      }
    }
    if (stream.problem().empty()) {
      if (document.bytes() == max_text) cut_text(document, max_text - 1);
      take(std::move(document));
    }
  }
  if (!stream.problem().empty()) return stream.problem();
  facts = {.bytes = stream.file_bytes(), .sha256 = stream.file_sha256()};
  return "";
}

}  // namespace engine::data
