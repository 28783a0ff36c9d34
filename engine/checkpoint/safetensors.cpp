#include "engine/checkpoint/safetensors.h"

#include <algorithm>
#include <bit>
#include <nlohmann/json.hpp>
#include <numeric>

#include "engine/core/error.h"

namespace engine::checkpoint {
namespace {

float widen_half(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16, magnitude = half & 0x7fff;
  if (magnitude >= 0x7c00) return std::bit_cast<float>(sign | 0x7f800000 | (magnitude & 0x3ff) << 13);
  if (magnitude < 0x400) {  // zero and subnormal
    const float value = static_cast<float>(magnitude) * 0x1p-24f;
    return sign != 0 ? -value : value;
  }
  return std::bit_cast<float>(sign | ((magnitude << 13) + (112u << 23)));
}

uint16_t narrow(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);  // values are finite
}

void write_narrowed(NewFile& file, const ConstTensor& tensor) {
  constexpr int64_t kChunk = 1 << 16;
  std::vector<uint16_t> halves;
  for (int64_t begin = 0; begin < tensor.num_elements(); begin += kChunk) {
    const int64_t count = std::min(kChunk, tensor.num_elements() - begin);
    halves.resize(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i) halves[static_cast<size_t>(i)] = narrow(tensor.f32()[begin + i]);
    file.write(halves.data(), count * 2);
  }
}

}  // namespace

void write_safetensors(NewFile& file, const std::vector<NamedTensor>& tensors, DType stored) {
  ENSURE(stored == DType::f32 || stored == DType::bf16, "weights are not stored as ", dtype_name(stored));
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  header["__metadata__"] = {{"format", "pt"}};
  int64_t offset = 0;
  for (const NamedTensor& named : tensors) {
    ENSURE(named.tensor.dtype == DType::f32 && named.tensor.is_contiguous(), named.name, " is not contiguous f32");
    const int64_t bytes = named.tensor.num_elements() * dtype_bytes(stored);
    std::vector<int64_t> shape(named.tensor.dims, named.tensor.dims + named.tensor.num_dims);
    header[named.name] = {
        {"dtype", stored == DType::f32 ? "F32" : "BF16"}, {"shape", shape}, {"data_offsets", {offset, offset + bytes}}};
    offset += bytes;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const uint64_t length = text.size();
  file.write(&length, sizeof(length));
  file.write(text);
  for (const NamedTensor& named : tensors) {
    if (stored == DType::f32) {
      file.write(named.tensor.data, named.tensor.num_elements() * 4);
    } else {
      write_narrowed(file, named.tensor);
    }
  }
  file.finish();
}

SafetensorsFile::SafetensorsFile(const std::string& directory, const std::string& name, Storage& storage)
    : name_(name), file_(directory, name, storage) {
  try {
    if (file_.bytes() < 8) throw Error(ExitCode::checkpoint, str("it has ", file_.bytes(), " bytes"));
    unsigned char first[8];
    file_.read(first, 0, 8);
    std::string header(static_cast<size_t>(safetensors_header_bytes(first, file_.bytes())), '\0');
    file_.read(header.data(), 8, static_cast<int64_t>(header.size()));
    entries_ = parse_safetensors_header(header, file_.bytes());
  } catch (const Error& error) {
    throw Error(ExitCode::checkpoint, str(directory, "/", name, " is not a safetensors file: ", error.what()));
  }
  by_name_.resize(entries_.size());
  std::iota(by_name_.begin(), by_name_.end(), size_t{0});
  std::sort(by_name_.begin(), by_name_.end(),
            [this](size_t a, size_t b) { return entries_[a].name < entries_[b].name; });
}

const SafetensorsFile::Entry* SafetensorsFile::find(const std::string& name) const {
  const auto found = std::lower_bound(by_name_.begin(), by_name_.end(), name,
                                      [this](size_t i, const std::string& key) { return entries_[i].name < key; });
  return found == by_name_.end() || entries_[*found].name != name ? nullptr : &entries_[*found];
}

void SafetensorsFile::read(const Entry& entry, int64_t begin, int64_t count, float* to) const {
  ENSURE(begin >= 0 && begin + count <= entry.elements(), "elements ", begin, " to ", begin + count, " of ",
         entry.name);
  if (entry.dtype == "F32") return file_.read(to, entry.begin + begin * 4, count * 4);
  if (entry.dtype != "BF16" && entry.dtype != "F16") {
    throw Error(ExitCode::checkpoint,
                str("tensor ", entry.name, " in ", name_, " has dtype ", entry.dtype, " but must be F32, BF16 or F16"));
  }
  std::vector<uint16_t> halves(static_cast<size_t>(count));
  file_.read(halves.data(), entry.begin + begin * 2, count * 2);
  for (size_t i = 0; i < halves.size(); ++i) {
    to[i] = entry.dtype == "F16" ? widen_half(halves[i]) : std::bit_cast<float>(static_cast<uint32_t>(halves[i]) << 16);
  }
}

}  // namespace engine::checkpoint
