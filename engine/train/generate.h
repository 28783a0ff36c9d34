// Text from a model, one token at a time, with the keys and values of earlier tokens kept.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/config/config.h"
#include "engine/model/model.h"

namespace engine::train {

struct GenerateOptions {
  int64_t max_tokens = 256;
  double temperature = 1;  // 0: always the likeliest token, the lowest of equals
  uint64_t seed = 1;
  int64_t max_rows = 0;  // as in Decoder
};

struct Generated {
  std::vector<std::vector<int32_t>> tokens;  // of each prompt the new ones, without the end of the document
  double prefill_seconds = 0, decode_seconds = 0;

  int64_t num_tokens() const;
};

// Continues every prompt; what becomes of one does not depend on the others. Each stops at the end of a document. When
// a context is full, its newer half is read again.
Generated generate(model::Model& model, const ModelConfig& config, const std::vector<std::vector<int32_t>>& prompts,
                   const GenerateOptions& options);

}  // namespace engine::train
