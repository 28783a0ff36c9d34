// Text for benchmarks of training steps.
#pragma once

#include <algorithm>
#include <cstdint>

#include "engine/config/config.h"
#include "engine/core/rng.h"

namespace tools {

// seq_len + 1 tokens drawn evenly from the vocabulary; the end of a document does not occur.
inline void synthetic_sample(const engine::Config& config, int64_t sample, int32_t* tokens) {
  const int64_t vocabulary = config.model.vocabulary();
  const uint64_t ids = static_cast<uint64_t>(std::min<int64_t>(vocabulary, vocabulary == 257 ? 256 : 1 << 30));
  for (int64_t i = 0; i <= config.train.seq_len; ++i) {
    const engine::Philox4 bits =
        engine::philox(engine::derive_key(1, "bench"), static_cast<uint64_t>(i), static_cast<uint64_t>(sample));
    tokens[i] = static_cast<int32_t>(engine::uniform_below(bits[0] | static_cast<uint64_t>(bits[1]) << 32, ids));
  }
}

}  // namespace tools
