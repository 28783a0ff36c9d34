// model.safetensors.index.json; one that is taken names plain files only.
#include "engine/checkpoint/file_system.h"
#include "engine/checkpoint/weight_index.h"
#include "tests/fuzz/fuzz_target.h"

FUZZ_TARGET(bytes) {
  for (const auto& [tensor, file] : engine::checkpoint::parse_weight_index(bytes, "index")) {
    if (!engine::checkpoint::is_plain_name(file) || tensor.empty()) __builtin_trap();
  }
}
