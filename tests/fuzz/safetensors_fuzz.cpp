// A safetensors file; the tensors of one that is taken tile it.
#include "engine/checkpoint/safetensors_header.h"
#include "tests/fuzz/fuzz_target.h"

FUZZ_TARGET(bytes) {
  if (bytes.size() < 8) return;
  const int64_t size = static_cast<int64_t>(bytes.size());
  const auto* first = reinterpret_cast<const unsigned char*>(bytes.data());
  const size_t header = static_cast<size_t>(engine::checkpoint::safetensors_header_bytes(first, size));
  int64_t total = 8 + static_cast<int64_t>(header);
  for (const auto& entry : engine::checkpoint::parse_safetensors_header(bytes.substr(8, header), size)) {
    if (entry.begin < 8 || entry.end > size || entry.elements() < 0) __builtin_trap();
    total += entry.end - entry.begin;
  }
  if (total != size) __builtin_trap();
}
