#include "engine/checkpoint/weight_index.h"

#include "engine/checkpoint/file_system.h"
#include "engine/checkpoint/safetensors_header.h"
#include "engine/config/json_reader.h"
#include "engine/core/error.h"

namespace engine::checkpoint {
namespace {

constexpr int64_t kLargestIndex = int64_t{1} << 28, kMostTensors = 1'000'000;

}  // namespace

std::map<std::string, std::string> parse_weight_index(std::string_view text, const std::string& name) {
  const auto refuse = [&name](const auto&... what) -> void { throw Error(ExitCode::checkpoint, str(name, what...)); };
  JsonValue json;
  try {
    json = read_json(text, {.max_bytes = kLargestIndex, .max_depth = 4, .max_values = kMostTensors + 100},
                     ExitCode::checkpoint);
  } catch (const JsonError& error) {
    refuse(":", error.position().line, ": ", error.what());
  }
  const JsonValue* weight_map = json.find("weight_map");
  if (weight_map == nullptr || weight_map->type != JsonValue::Type::object) refuse(" has no \"weight_map\"");
  std::map<std::string, std::string> files;
  for (const JsonValue::Member& member : weight_map->members) {
    if (!is_tensor_name(member.key)) {
      refuse(":", member.position.line, ": a tensor's name is empty, longer than 512 bytes or has control characters");
    }
    if (member.value.type != JsonValue::Type::string || !is_plain_name(member.value.string)) {
      refuse(":", member.position.line, ": ", member.key, " is placed in ",
             member.value.type == JsonValue::Type::string ? json_string(member.value.string.substr(0, 200))
                                                          : json_type_name(member.value.type),
             ", which is not a file name");
    }
    files[member.key] = member.value.string;
  }
  return files;
}

std::map<std::string, std::string> read_weight_index(const std::string& directory, Storage& storage) {
  return parse_weight_index(ExistingFile(directory, kWeightIndex, storage).read_all(kLargestIndex),
                            directory + "/" + kWeightIndex);
}

}  // namespace engine::checkpoint
