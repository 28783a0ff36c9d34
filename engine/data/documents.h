// Documents: the texts of a source after reading, stripping, filtering and capping. One file is one document, and one
// line of a .jsonl file is one.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "engine/config/config.h"
#include "engine/core/hash.h"
#include "engine/data/spill_file.h"

namespace engine::data {

struct Document {
  std::string path;        // relative to the config file where the config says so, see find_files()
  std::string text;        // as the model will see it; empty where it is kept in `spill`
  int64_t line = 0;        // of a .jsonl file, from 1; 0: the file is the document
  int64_t line_begin = 0;  // where that line stands in the decompressed file
  int64_t text_begin = 0;  // how much of the document's own text comes before `text`

  std::shared_ptr<SpillFile> spill = nullptr;
  int64_t spill_begin = 0, spill_bytes = 0;

  // "path", or "path:line".
  std::string name() const;
  int64_t bytes() const { return spill ? spill_bytes : static_cast<int64_t>(text.size()); }
  // The text from its beginning, at most `count` bytes.
  std::string beginning(int64_t count) const;
  // The text in order, in pieces that end where characters do; in memory it is one piece.
  void for_each_piece(const std::function<void(std::string_view)>& use) const;
  // Takes bytes away at the front, or everything behind the first `count`.
  void drop_front(int64_t count);
  void keep_front(int64_t count);
  void move_to(const std::shared_ptr<SpillFile>& file);

  bool operator<(const Document& other) const {
    return std::tie(path, line, text_begin) < std::tie(other.path, other.line, other.text_begin);
  }
};

// Of a file as it lies on disk.
struct FileFacts {
  int64_t bytes = 0;
  std::string sha256;
};

inline constexpr size_t kMostNamed = 1000;

struct SourceDocuments {
  std::string name;
  std::vector<Document> documents;                                      // in order
  std::map<std::string, int64_t> left_out;                              // documents by reason
  std::map<std::string, FileFacts> files;                               // by path: all that were read
  std::map<std::string, std::string> no_text;                           // what could not be used as text, and why
  std::map<std::string, std::vector<std::string>> left_out_names = {};  // by reason, the first kMostNamed of each
  int64_t bytes() const;
  void leave_out(const std::string& document, const std::string& reason);
};

// Where texts go when memory is short.
struct TextKeeper {
  int64_t most_held = INT64_MAX;  // bytes of text in memory; a single text has at most a quarter of it
  int64_t held = 0;
  std::shared_ptr<SpillFile> spill = nullptr;
  const std::shared_ptr<SpillFile>& file() {
    if (!spill) spill = std::make_shared<SpillFile>();
    return spill;
  }
};
inline constexpr int64_t kMostHeldText = int64_t{256} << 20;

enum class BadRecords { error, skip };  // lines of .jsonl files that cannot be read

// Reads every source. With filters.dedup "exact" a text is used once over all sources, in their order. With max_bytes
// the texts in memory are at most a small multiple of it. A source without a document left throws Error(data) with the
// reasons.
std::vector<SourceDocuments> read_sources(const std::vector<SourceConfig>& sources, const FilterConfig& filters,
                                          const std::string& base_directory, uint64_t seed,
                                          int64_t most_held = INT64_MAX, BadRecords bad_records = BadRecords::error);

// The text without the comment it begins with (/* */, // or # lines, after a #! line), where most licences stand.
std::string strip_leading_comment(const std::string& text);

// The longest beginning of at most max_bytes that does not end inside a character.
void cut_text(Document& document, int64_t max_bytes);

}  // namespace engine::data
