// Writes a model as a directory that transformers opens.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "engine/config/config.h"
#include "engine/core/dtype.h"
#include "engine/huggingface/family.h"
#include "engine/nn/parameters.h"

namespace engine::huggingface {

struct Export {
  Family family;
  const ModelConfig* model = nullptr;
  const nn::ParameterStore* store = nullptr;
  std::optional<int64_t> end_token;
  std::string card;                        // README.md
  DType dtype = DType::f32;                // or bf16
  int64_t shard_bytes = int64_t{4} << 30;  // of one file at most, if more than one tensor is in it
};

// Makes `directory`, which must not be there: config.json, generation_config.json, README.md and the weights, one file
// or shards with an index. It is written under another name and renamed when it is whole. Throws Error.
void write_directory(const std::string& directory, const Export& what);

}  // namespace engine::huggingface
