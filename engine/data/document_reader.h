// The documents of one file: the lines of a .jsonl file, and any other file as a whole; .gz and .zst of both.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "engine/data/documents.h"

namespace engine::data {

inline constexpr char kNotText[] = "not UTF-8 text";

// For a line of a .jsonl file that is no object with a string "text": its place as "path:line", and what is wrong.
using BadRecordUse = std::function<void(const std::string& place, const std::string& problem)>;
std::string bad_record_message(const std::string& place, const std::string& problem);

// Calls `take` with each document of the file at `place`, which messages and documents call `name`. A text longer than
// `max_text` is cut there, and one that is too long for `keeper` goes to its file, so that memory is bounded. Returns
// why the file is no text that can be used, or an empty string. Without `bad_record` a bad line throws Error(data).
std::string read_documents(const std::string& place, const std::string& name, int64_t max_text, FileFacts& facts,
                           const std::function<void(Document)>& take, TextKeeper* keeper = nullptr,
                           const BadRecordUse& bad_record = nullptr);

}  // namespace engine::data
