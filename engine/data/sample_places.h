// Where the tokens of a training sample stand in the files.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/data/corpus.h"

namespace engine::data {

struct SamplePiece {
  std::string file;
  int64_t line = 0;            // of a .jsonl file, else 0
  int64_t begin = 0, end = 0;  // bytes of the decompressed file, or of the line's text
  bool ends_document = false;  // the end-of-document token follows it in the sample
};

// The pieces of tokens [first, first + count) of a set, in order. A piece may be empty before an end of document.
std::vector<SamplePiece> find_pieces(const TokenSet& set, int64_t first, int64_t count);

}  // namespace engine::data
