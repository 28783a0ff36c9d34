// Documents: the texts of a source after reading, stripping, filtering and capping. One file is one document, and one
// line of a .jsonl file is one.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "engine/config/config.h"
#include "engine/core/hash.h"

namespace engine::data {

struct Document {
  std::string path;        // relative to the config file where the config says so, see find_files()
  std::string text;        // as the model will see it
  int64_t line = 0;        // of a .jsonl file, from 1; 0: the file is the document
  int64_t line_begin = 0;  // where that line stands in the decompressed file
  int64_t text_begin = 0;  // how much of the document's own text comes before `text`

  // "path", or "path:line".
  std::string name() const;
  bool operator<(const Document& other) const {
    return std::tie(path, line, text_begin) < std::tie(other.path, other.line, other.text_begin);
  }
};

// Of a file as it lies on disk.
struct FileFacts {
  int64_t bytes = 0;
  std::string sha256;
};

struct SourceDocuments {
  std::string name;
  std::vector<Document> documents;             // in order
  std::map<std::string, int64_t> left_out;     // documents by reason
  std::map<std::string, FileFacts> files;      // by path: all that were read
  std::map<std::string, std::string> no_text;  // what could not be used as text, and why
  int64_t bytes() const;
};

// Reads every source. With filters.dedup "exact" a text is used once over all sources, in their order. With max_bytes
// the texts in memory are at most a small multiple of it. A source without a document left throws Error(data) with the
// reasons.
std::vector<SourceDocuments> read_sources(const std::vector<SourceConfig>& sources, const FilterConfig& filters,
                                          const std::string& base_directory, uint64_t seed);

// The text without the comment it begins with (/* */, // or # lines, after a #! line), where most licences stand.
std::string strip_leading_comment(const std::string& text);

// The longest beginning of at most max_bytes that does not end inside a character.
void cut_text(std::string& text, int64_t max_bytes);

}  // namespace engine::data
