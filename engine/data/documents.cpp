#include "engine/data/documents.h"

#include <algorithm>

#include "engine/core/error.h"
#include "engine/data/source_reader.h"

namespace engine::data {

int64_t SourceDocuments::bytes() const {
  int64_t total = 0;
  for (const Document& document : documents) total += document.bytes();
  return total;
}

void SourceDocuments::leave_out(const std::string& document, const std::string& reason) {
  ++left_out[reason];
  std::vector<std::string>& names = left_out_names[reason];
  if (names.size() < kMostNamed) names.push_back(document);
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

std::string Document::beginning(int64_t count) const {
  return spill ? spill->read(spill_begin, std::min(count, spill_bytes)) : text.substr(0, static_cast<size_t>(count));
}

void Document::for_each_piece(const std::function<void(std::string_view)>& use) const {
  if (!spill) return use(text);
  constexpr int64_t kPiece = 1 << 20;
  std::string piece;
  for (int64_t at = 0; at < spill_bytes;) {
    const int64_t count = std::min(kPiece, spill_bytes - at);
    piece.resize(static_cast<size_t>(count));
    spill->read(spill_begin + at, count, piece.data());
    // up to three bytes of a character that goes on are left for the next piece
    size_t whole = piece.size();
    for (size_t back = 1; at + count < spill_bytes && back <= 4 && back < piece.size(); ++back) {
      const unsigned char byte = static_cast<unsigned char>(piece[piece.size() - back]);
      if ((byte & 0xC0) == 0x80) continue;
      if (byte >= 0xC0) whole = piece.size() - back;
      break;
    }
    use(std::string_view(piece).substr(0, whole));
    at += static_cast<int64_t>(whole);
  }
}

void Document::drop_front(int64_t count) {
  text_begin += count;
  if (!spill) {
    text.erase(0, static_cast<size_t>(count));
  } else {
    spill_begin += count, spill_bytes -= count;
  }
}

void Document::keep_front(int64_t count) {
  if (!spill) {
    text.resize(static_cast<size_t>(count));
  } else {
    spill_bytes = count;
  }
}

void Document::move_to(const std::shared_ptr<SpillFile>& file) {
  spill_bytes = static_cast<int64_t>(text.size());
  spill_begin = file->append(text);
  spill = file;
  std::string().swap(text);
}

void cut_text(Document& document, int64_t max_bytes) {
  if (document.bytes() <= max_bytes) return;
  const int64_t first = std::max<int64_t>(0, max_bytes - 4);
  const std::string around = document.spill ? document.spill->read(document.spill_begin + first, max_bytes - first + 1)
                                            : document.text.substr(static_cast<size_t>(first), 5);
  int64_t end = max_bytes;
  while (end > first && (static_cast<unsigned char>(around[static_cast<size_t>(end - first)]) & 0xC0) == 0x80) --end;
  document.keep_front(end);
}

std::vector<SourceDocuments> read_sources(const std::vector<SourceConfig>& sources, const FilterConfig& filters,
                                          const std::string& base_directory, uint64_t seed, int64_t most_held,
                                          BadRecords bad_records) {
  std::vector<SourceDocuments> all;
  SeenTexts seen;
  TextKeeper keeper{.most_held = most_held};
  for (const SourceConfig& config : sources)
    all.push_back(read_source(config, filters, base_directory, seed, seen, keeper, bad_records));
  return all;
}

}  // namespace engine::data
