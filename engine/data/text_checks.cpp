#include "engine/data/text_checks.h"

#include <zlib.h>

#include <algorithm>
#include <cstdio>
#include <unordered_map>
#include <vector>

#include "engine/core/error.h"

namespace engine::data {
namespace {

bool is_control(uint32_t code) {
  if (code < 0x20) return code != '\t' && code != '\n' && code != '\f' && code != '\r';
  return (code >= 0x7F && code < 0xA0) || (code >= 0x202A && code <= 0x202E) || (code >= 0x2066 && code <= 0x2069) ||
         (code >= 0xE0000 && code <= 0xE007F);
}

// The character at `at` of valid UTF-8, and its length.
uint32_t character_at(std::string_view text, size_t at, size_t& length) {
  const unsigned char lead = static_cast<unsigned char>(text[at]);
  length = lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  uint32_t code = length == 1 ? lead : lead & (0x7Fu >> length);
  for (size_t i = 1; i < length && at + i < text.size(); ++i)
    code = code << 6 | (static_cast<unsigned char>(text[at + i]) & 0x3F);
  return code;
}

}  // namespace

ControlCharacters find_control_characters(std::string_view text) {
  ControlCharacters found;
  size_t length = 1;
  for (size_t at = 0; at < text.size(); at += length) {
    const uint32_t code = character_at(text, at, length);
    if (!is_control(code)) continue;
    if (found.count++ == 0) found.first_code = code, found.first_at = static_cast<int64_t>(at);
  }
  return found;
}

RepeatedLine most_repeated_line(std::string_view text) {
  std::unordered_map<std::string_view, int64_t> counts;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line = trimmed(text.substr(begin, end - begin));
    if (!line.empty()) ++counts[line];
    begin = end + 1;
  }
  std::pair<int64_t, std::string_view> most;  // bytes, line; of two with as many the later in the alphabet
  for (const auto& [line, count] : counts) {
    if (count >= 4) most = std::max(most, {count * static_cast<int64_t>(line.size() + 1), line});
  }
  if (most.first == 0) return {};
  return {std::string(most.second), counts[most.second],
          std::min(1.0, static_cast<double>(most.first) / static_cast<double>(text.size()))};
}

double compression_ratio(std::string_view text) {
  if (text.empty()) return 1;
  z_stream stream{};
  ENSURE(deflateInit(&stream, 6) == Z_OK, "zlib cannot start");
  std::vector<Bytef> out(1 << 16);
  int result = Z_OK;
  while (result == Z_OK) {
    if (stream.avail_in == 0) {
      const size_t piece = std::min(text.size(), size_t{1} << 30);
      stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
      stream.avail_in = static_cast<uInt>(piece);
      text.remove_prefix(piece);
    }
    stream.next_out = out.data();
    stream.avail_out = static_cast<uInt>(out.size());
    result = deflate(&stream, text.empty() ? Z_FINISH : Z_NO_FLUSH);
  }
  const double ratio = static_cast<double>(stream.total_in) / static_cast<double>(stream.total_out);
  deflateEnd(&stream);
  return ratio;
}

std::string print_text(std::string_view text, size_t max_bytes) {
  std::string out;
  size_t length = 1;
  for (size_t at = 0; at < text.size(); at += length) {
    const uint32_t code = character_at(text, at, length);
    if (at + length > max_bytes || at + length > text.size()) return out + "...";
    char escaped[16];
    if (code == '\n') {
      out += "\\n";
    } else if (code == '\t') {
      out += "\\t";
    } else if (code == '\r') {
      out += "\\r";
    } else if (is_control(code) || code == '\f') {
      std::snprintf(escaped, sizeof(escaped), code < 0x100 ? "\\x%02x" : "\\u{%04x}", code);
      out += escaped;
    } else {
      out += text.substr(at, length);
    }
  }
  return out;
}

std::string_view trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t\r\f");
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t\r\f") + 1 - begin);
}

}  // namespace engine::data
