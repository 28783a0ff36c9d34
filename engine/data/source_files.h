// Finding the files of a source.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace engine::data {

// Whether a path matches a glob: ? and * stay within a directory, ** crosses directories ("a/**/b" also matches
// "a/b"), [abc] and [a-c] are one of a set.
bool glob_match(std::string_view pattern, std::string_view path);

// Regular files that any of `patterns` (a path, a directory with everything below it, or a glob) leads to and none of
// `excludes` matches, sorted. Relative patterns start at `base_directory` and give names relative to it, so that
// names, and what is drawn by them, do not depend on where that directory is. Names that begin with a dot are found
// only by a pattern that has such a name; links are not followed. Standard input ("-", text_stream.h) stands for
// itself. A pattern without a file throws Error(data).
std::vector<std::string> find_files(const std::vector<std::string>& patterns, const std::vector<std::string>& excludes,
                                    const std::string& base_directory);

// Valid UTF-8 without NUL: what counts as text.
bool is_text(std::string_view bytes);

}  // namespace engine::data
