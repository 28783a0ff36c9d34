// Documents: the texts of a source after reading, stripping, filtering and capping. One file is one document.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "engine/config/config.h"
#include "engine/core/hash.h"

namespace engine::data {

struct Document {
  std::string path;  // relative to the config file where the config says so, see find_files()
  std::string text;  // as the model will see it
  int64_t file_bytes = 0;
  std::string file_sha256;
};

struct SourceDocuments {
  std::string name;
  std::vector<Document> documents;          // by path
  std::map<std::string, int64_t> left_out;  // files by reason
  int64_t bytes() const;
};

// Reads every source. With filters.dedup "exact" a text is used once over all sources, in their order.
// A source without a document left throws Error(data) with the reasons.
std::vector<SourceDocuments> read_sources(const std::vector<SourceConfig>& sources, const FilterConfig& filters,
                                          const std::string& base_directory, uint64_t seed);

// The text without the comment it begins with (/* */, // or # lines, after a #! line), where most licences stand.
std::string strip_leading_comment(const std::string& text);

}  // namespace engine::data
