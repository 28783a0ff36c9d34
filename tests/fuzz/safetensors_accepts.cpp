// For scripts/compare_safetensors.py: files come on stdin, each after its length in 4 bytes; for each a line says
// whether our reader takes it.
#include <cstdint>
#include <cstdio>
#include <string>

#include "engine/checkpoint/safetensors_header.h"
#include "engine/core/error.h"

namespace {

bool accepts(const std::string& file) {
  using namespace engine::checkpoint;
  const int64_t bytes = static_cast<int64_t>(file.size());
  if (bytes < 8) return false;
  try {
    const auto* first = reinterpret_cast<const unsigned char*>(file.data());
    const size_t header = static_cast<size_t>(safetensors_header_bytes(first, bytes));
    parse_safetensors_header(std::string_view(file).substr(8, header), bytes);
    return true;
  } catch (const engine::Error&) {
    return false;
  }
}

}  // namespace

int main() {
  uint32_t length = 0;
  while (std::fread(&length, sizeof(length), 1, stdin) == 1) {
    std::string file(length, '\0');
    if (std::fread(file.data(), 1, length, stdin) != length) return 1;
    std::puts(accepts(file) ? "1" : "0");
  }
  return 0;
}
