// The header of a safetensors file, read strictly from bytes. (Format: Hugging Face safetensors.)
//
// Nothing is accepted that the reference implementation refuses. Beyond it: names once, at most 512 bytes and without
// control characters, at most 10^6 tensors of at most 8 dimensions, no keys but the three of a tensor.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace engine::checkpoint {

struct SafetensorsEntry {
  std::string name, dtype;  // "F32", "BF16", "F16", ...
  std::vector<int64_t> shape;
  int64_t begin = 0, end = 0;  // bytes in the file
  int64_t elements() const;
};

// How long the header of a file is, from its first 8 bytes. Throws Error(checkpoint) where that cannot be.
int64_t safetensors_header_bytes(const unsigned char first[8], int64_t file_bytes);

// The tensors in the order of the header, which was all there is between the first 8 bytes and the tensors' own.
// Throws Error(checkpoint) with what is wrong; the caller knows the file. Takes memory in proportion to the header.
std::vector<SafetensorsEntry> parse_safetensors_header(std::string_view header, int64_t file_bytes);

// Whether a tensor may be called so here and in an index: 1 to 512 bytes, none of them a control character.
bool is_tensor_name(std::string_view name);

}  // namespace engine::checkpoint
