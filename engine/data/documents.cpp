#include "engine/data/documents.h"

#include <algorithm>

#include "engine/core/error.h"
#include "engine/data/source_reader.h"

namespace engine::data {

int64_t SourceDocuments::bytes() const {
  int64_t total = 0;
  for (const Document& document : documents) total += static_cast<int64_t>(document.text.size());
  return total;
}

std::string strip_leading_comment(const std::string& text) {
  size_t at = 0;
  auto line_end = [&](size_t from) { return std::min(text.find('\n', from), text.size() - 1) + 1; };
  while (at < text.size()) {
    const size_t begin = text.find_first_not_of(" \t\r\n", at);
    if (begin == std::string::npos) break;
    if (text.compare(begin, 2, "/*") == 0) {
      const size_t end = text.find("*/", begin + 2);
      if (end == std::string::npos) break;
      at = end + 2;
    } else if (text.compare(begin, 2, "//") == 0 ||
               (text[begin] == '#' && (begin + 1 == text.size() ||
                                       std::string_view(" \n#!-").find(text[begin + 1]) != std::string_view::npos))) {
      at = line_end(begin);
    } else {
      at = begin;
      break;
    }
  }
  const size_t begin = text.find_first_not_of("\r\n", at);
  return begin == std::string::npos ? "" : text.substr(begin);
}

std::string Document::name() const {
  return line > 0 ? str(path, ":", line) : path;
}

void cut_text(std::string& text, int64_t max_bytes) {
  if (static_cast<int64_t>(text.size()) <= max_bytes) return;
  size_t end = static_cast<size_t>(max_bytes);
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  text.resize(end);
}

std::vector<SourceDocuments> read_sources(const std::vector<SourceConfig>& sources, const FilterConfig& filters,
                                          const std::string& base_directory, uint64_t seed) {
  std::vector<SourceDocuments> all;
  SeenTexts seen;
  for (const SourceConfig& config : sources) all.push_back(read_source(config, filters, base_directory, seed, seen));
  return all;
}

}  // namespace engine::data
