// model.safetensors.index.json: which file holds which weight, as transformers reads and writes it.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "engine/checkpoint/storage.h"

namespace engine::checkpoint {

inline constexpr char kWeightIndex[] = "model.safetensors.index.json";

// Tensor -> file. Every file has a plain name. Throws Error(checkpoint) beginning with `name`, which stands for the
// text.
std::map<std::string, std::string> parse_weight_index(std::string_view text, const std::string& name);

// The index of a directory. Throws Error(checkpoint).
std::map<std::string, std::string> read_weight_index(const std::string& directory, Storage& storage = system_storage());

}  // namespace engine::checkpoint
