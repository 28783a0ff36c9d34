#include "engine/huggingface/export.h"

#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <vector>

#include "engine/checkpoint/file_system.h"
#include "engine/checkpoint/safetensors.h"
#include "engine/core/error.h"

namespace engine::huggingface {
namespace {

using checkpoint::Directory;
using checkpoint::NamedTensor;
using checkpoint::NewFile;
using Json = nlohmann::ordered_json;

int64_t bytes_of(const NamedTensor& tensor, DType dtype) {
  return tensor.tensor.num_elements() * dtype_bytes(dtype);
}

// Tensors in their order, cut where a shard would become too large.
std::vector<std::vector<NamedTensor>> shards_of(const Export& what) {
  std::vector<std::vector<NamedTensor>> shards(1);
  int64_t bytes = 0;
  for (const nn::Parameter& parameter : what.store->all()) {
    NamedTensor tensor{file_name(what.family, parameter.spec.name), parameter.weight};
    const int64_t more = bytes_of(tensor, what.dtype);
    if (bytes > 0 && bytes + more > what.shard_bytes) {
      shards.emplace_back();
      bytes = 0;
    }
    bytes += more;
    shards.back().push_back(std::move(tensor));
  }
  return shards;
}

void write_text(const Directory& directory, const std::string& name, const std::string& text) {
  NewFile file = directory.create(name);
  file.write(text);
  file.finish();
}

void write_weights(const Directory& directory, const Export& what) {
  const std::vector<std::vector<NamedTensor>> shards = shards_of(what);
  Json index = {{"metadata", {{"total_size", 0}}}, {"weight_map", Json::object()}};
  int64_t total = 0;
  for (size_t i = 0; i < shards.size(); ++i) {
    char name[64] = "model.safetensors";
    if (shards.size() > 1) std::snprintf(name, sizeof(name), "model-%05zu-of-%05zu.safetensors", i + 1, shards.size());
    NewFile file = directory.create(name);
    checkpoint::write_safetensors(file, shards[i], what.dtype);
    for (const NamedTensor& tensor : shards[i]) {
      index["weight_map"][tensor.name] = name;
      total += bytes_of(tensor, what.dtype);
    }
  }
  index["metadata"]["total_size"] = total;
  if (shards.size() > 1) write_text(directory, "model.safetensors.index.json", index.dump(1) + "\n");
}

}  // namespace

void write_directory(const std::string& directory, const Export& what) {
  namespace fs = std::filesystem;
  std::error_code error;
  const fs::path path = fs::absolute(directory).lexically_normal();
  const fs::path named = path.has_filename() ? path : path.parent_path();  // without a slash at the end
  if (fs::exists(named, error)) {
    throw Error(ExitCode::usage, str(directory, " is there already and is not overwritten; give another directory"));
  }
  const Directory parent = Directory::open_or_make(named.parent_path().string());
  const std::string name = named.filename().string(), temporary = ".tmp-" + name;
  for (const std::string& left : parent.names()) {
    if (left == temporary) parent.remove_directory(temporary);  // of an attempt that was interrupted
  }
  Directory inside = parent.make(temporary);
  try {
    write_weights(inside, what);
    write_text(inside, "config.json", config_json(what.family, *what.model, what.end_token, what.dtype));
    write_text(inside, "generation_config.json", generation_config_json(what.end_token));
    write_text(inside, "README.md", what.card);
    inside.sync();
    parent.rename(temporary, name);
    parent.sync();
  } catch (...) {
    parent.remove_directory(temporary);
    throw;
  }
}

}  // namespace engine::huggingface
