// `config init`: a starter config for a text, with a comment for each key.
#pragma once

#include <string>

namespace tools {

// Writes `file` for the text at `text` (a path, a directory or a glob, relative to the working directory). Sizes follow
// from how much text there is. Throws Error where there is no text, or something at `file` already.
void write_starter_config(const std::string& text, const std::string& file);

}  // namespace tools
