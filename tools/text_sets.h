// Sets of text that are named on the command line: one by one, by folder, or by date.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/data/corpus.h"

namespace tools {

struct TextChoice {
  std::vector<std::string> data;       // [NAME=]FILES; FILES is a file, a directory or a glob
  std::vector<std::string> by_folder;  // directories: each folder in them is a set
  std::vector<std::string> by_date;    // FILES: each month is a set
  bool empty() const { return data.empty() && by_folder.empty() && by_date.empty(); }
};

// In the order of the options, folders and months in theirs. Documents that are no text are left out with a warning;
// a set without two bytes of text throws Error(data).
std::vector<engine::data::TokenSet> read_text_sets(const TextChoice& choice, int64_t vocab_size);

// The month of a file as "2026-01": the first date in its path (2026-01, 2026/01, 20260115), or the time of its last
// change.
std::string month_of(const std::string& path);

}  // namespace tools
