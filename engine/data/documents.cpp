#include "engine/data/documents.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include "engine/core/error.h"
#include "engine/core/rng.h"
#include "engine/data/source_files.h"

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

namespace {

double digit_fraction(const std::string& text) {
  const int64_t digits = std::count_if(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
  return text.empty() ? 0 : static_cast<double>(digits) / static_cast<double>(text.size());
}

using Seen = std::set<std::pair<uint64_t, uint64_t>>;

// The reason to leave a text out, or an empty string.
std::string reason_against(const std::string& text, const FilterConfig& filters, Seen& seen) {
  if (!is_text(text)) return "not UTF-8 text";
  if (text.empty()) return "empty";
  if (filters.min_bytes && static_cast<int64_t>(text.size()) < filters.min_bytes->value)
    return "shorter than filters.min_bytes";
  if (filters.max_digit_fraction && digit_fraction(text) > *filters.max_digit_fraction) {
    return "more digits than filters.max_digit_fraction";
  }
  if (filters.dedup == "none") return "";
  const Hash128 hash = xxh3_128(text.data(), static_cast<int64_t>(text.size()));
  return seen.insert({hash.low, hash.high}).second ? "" : "the same text as another document";
}

// The longest beginning of at most max_bytes that does not end inside a character.
void cut(std::string& text, int64_t max_bytes) {
  size_t end = static_cast<size_t>(max_bytes);
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  text.resize(end);
}

// Keeps documents in a random order that depends on their paths alone until the cap is reached. Where every document
// is larger than the cap the first one is cut.
void cap(SourceDocuments& source, int64_t max_bytes, uint64_t seed) {
  const uint64_t key = derive_key(seed, "cap");
  auto rank = [&](const Document& d) { return xxh3_64(d.path.data(), static_cast<int64_t>(d.path.size()), key); };
  std::sort(source.documents.begin(), source.documents.end(), [&](const Document& a, const Document& b) {
    return std::pair(rank(a), a.path) < std::pair(rank(b), b.path);
  });
  const bool fits = std::any_of(source.documents.begin(), source.documents.end(), [&](const Document& document) {
    return static_cast<int64_t>(document.text.size()) <= max_bytes;
  });
  if (!fits && !source.documents.empty()) cut(source.documents.front().text, max_bytes);
  int64_t total = 0;
  std::erase_if(source.documents, [&](const Document& document) {
    const int64_t size = static_cast<int64_t>(document.text.size());
    if (total + size <= max_bytes) {
      total += size;
      return false;
    }
    ++source.left_out["beyond max_bytes"];
    return true;
  });
  std::sort(source.documents.begin(), source.documents.end(),
            [](const Document& a, const Document& b) { return a.path < b.path; });
}

SourceDocuments read_source(const SourceConfig& config, const FilterConfig& filters, const std::string& base_directory,
                            uint64_t seed, Seen& seen) {
  SourceDocuments source{config.name, {}, {}};
  for (const std::string& path : find_files(config.files, config.exclude, base_directory)) {
    Document document{path, {}, 0, {}};
    if (!read_file((std::filesystem::path(base_directory) / path).string(), document.text)) {
      ++source.left_out["unreadable"];
      continue;
    }
    document.file_bytes = static_cast<int64_t>(document.text.size());
    document.file_sha256 = to_hex(sha256(document.text.data(), document.file_bytes));
    if (config.strip == "leading-comment") document.text = strip_leading_comment(document.text);
    const std::string reason = reason_against(document.text, filters, seen);
    if (!reason.empty()) {
      ++source.left_out[reason];
      continue;
    }
    source.documents.push_back(std::move(document));
  }
  if (config.max_bytes) cap(source, config.max_bytes->value, seed);
  if (!source.documents.empty()) return source;
  std::string reasons;
  for (const auto& [reason, count] : source.left_out) reasons += str(reasons.empty() ? "" : ", ", count, " ", reason);
  throw Error(ExitCode::data, str("source \"", config.name, "\" has no document left: ", reasons,
                                  "; change data.filters or the source's files"));
}

}  // namespace

std::vector<SourceDocuments> read_sources(const std::vector<SourceConfig>& sources, const FilterConfig& filters,
                                          const std::string& base_directory, uint64_t seed) {
  std::vector<SourceDocuments> all;
  Seen seen;
  for (const SourceConfig& config : sources) all.push_back(read_source(config, filters, base_directory, seed, seen));
  return all;
}

}  // namespace engine::data
