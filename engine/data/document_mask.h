// Where documents begin inside a sequence.
#pragma once

#include <cstdint>

#include "engine/data/tokenizer.h"

namespace engine::data {

// For tokens[0, length): positions[t] counts from the document's first token in the sequence, starts[t] is where
// that token stands. The end-of-document token belongs to the document it ends. Without `mask` the sequence is one
// document.
inline void document_mask(const int32_t* tokens, int64_t length, bool mask, int32_t* positions, int32_t* starts) {
  int32_t start = 0;
  for (int64_t t = 0; t < length; ++t) {
    if (mask && t > 0 && tokens[t - 1] == kEndOfDocument) start = static_cast<int32_t>(t);
    positions[t] = static_cast<int32_t>(t) - start;
    starts[t] = start;
  }
}

}  // namespace engine::data
