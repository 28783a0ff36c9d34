// The documents of one file: the lines of a .jsonl file, and any other file as a whole; .gz and .zst of both.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "engine/data/documents.h"

namespace engine::data {

inline constexpr char kNotText[] = "not UTF-8 text";

// Calls `take` with each document of the file at `place`, which messages and documents call `name`. A text longer than
// `max_text` is cut there, and one that is too long for `keeper` goes to its file, so that memory is bounded. Returns
// why the file is no text that can be used, or an empty string. A line of a .jsonl file that is no object with a string
// "text" throws Error(data) with its number.
std::string read_documents(const std::string& place, const std::string& name, int64_t max_text, FileFacts& facts,
                           const std::function<void(Document)>& take, TextKeeper* keeper = nullptr);

}  // namespace engine::data
