// The weights of a transformers directory: model.safetensors, or shards with model.safetensors.index.json.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <string>

#include "engine/checkpoint/safetensors.h"
#include "engine/huggingface/family.h"
#include "engine/nn/parameters.h"

namespace engine::huggingface {

class WeightFiles {
 public:
  // Opens every file. Throws Error(checkpoint) where a tensor is in two files, or elsewhere than the index says.
  explicit WeightFiles(const std::string& directory);

  // Throws Error(checkpoint) with the list of what does not match: every weight of the store has to be there once with
  // its shape, and nothing else.
  void check(const Family& family, const nn::ParameterStore& store) const;
  // check(), then reads every weight of the store; BF16 and F16 are widened. A value that is not finite is an error.
  void load(const Family& family, nn::ParameterStore& store) const;

 private:
  struct Place {
    const checkpoint::SafetensorsFile* file;
    const checkpoint::SafetensorsFile::Entry* entry;
  };
  void add(const std::string& directory, const std::string& file);

  std::string directory_;
  std::deque<checkpoint::SafetensorsFile> files_;
  std::map<std::string, Place> tensors_;
};

}  // namespace engine::huggingface
