// Measures of one text that tell what is hardly worth training on; used by data.filters and by `data inspect`.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace engine::data {

// Characters that act on a terminal or an editor without being seen: C0 controls but tab, line feed, form feed and
// carriage return; DEL and C1 controls; embeddings, overrides and isolates of text direction (U+202A to U+202E, U+2066
// to U+2069; Boucher and Anderson 2021); tag characters (U+E0000 to U+E007F).
struct ControlCharacters {
  int64_t count = 0;
  uint32_t first_code = 0;
  int64_t first_at = 0;  // byte in the text
};
ControlCharacters find_control_characters(std::string_view text);

// The line, blank ones aside, that takes up the most of a text; only lines that stand in it at least four times.
struct RepeatedLine {
  std::string line;
  int64_t count = 0;
  double share = 0;  // of the bytes of the text
};
RepeatedLine most_repeated_line(std::string_view text);

// Bytes of the text per byte of it under zlib.
double compression_ratio(std::string_view text);

// A text on one line: what is not printable ASCII or UTF-8 is escaped, and it is cut after max_bytes.
std::string print_text(std::string_view text, size_t max_bytes);

// The text without spaces at both ends.
std::string_view trimmed(std::string_view text);

}  // namespace engine::data
