// One safetensors file: eight bytes of header length, a JSON header, the tensors' bytes without gaps.
// How the header is read: safetensors_header.h.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/checkpoint/file_system.h"
#include "engine/checkpoint/safetensors_header.h"
#include "engine/core/tensor.h"

namespace engine::checkpoint {

struct NamedTensor {
  std::string name;
  ConstTensor tensor;  // contiguous f32
};
// Writes all tensors in order, as f32 or rounded to bf16 (to nearest, ties to even); `file` is finished afterwards.
void write_safetensors(NewFile& file, const std::vector<NamedTensor>& tensors, DType stored = DType::f32);

class SafetensorsFile {
 public:
  using Entry = SafetensorsEntry;
  // Throws Error(checkpoint) with the file and what is wrong.
  SafetensorsFile(const std::string& directory, const std::string& name, Storage& storage = system_storage());

  const std::string& name() const { return name_; }
  const std::vector<Entry>& entries() const { return entries_; }
  const Entry* find(const std::string& name) const;
  // Elements [begin, begin + count) as floats; BF16 and F16 are widened.
  void read(const Entry& entry, int64_t begin, int64_t count, float* to) const;

 private:
  std::string name_;
  ExistingFile file_;
  std::vector<Entry> entries_;
  std::vector<size_t> by_name_;  // numbers of entries, sorted by name
};

}  // namespace engine::checkpoint
