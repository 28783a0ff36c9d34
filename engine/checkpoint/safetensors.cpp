#include "engine/checkpoint/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>

#include "engine/config/json_reader.h"
#include "engine/core/error.h"

namespace engine::checkpoint {
namespace {

constexpr int64_t kLargestHeader = 100'000'000;
constexpr size_t kMostTensors = 1'000'000;

int64_t element_bytes(const std::string& dtype) {
  static const std::map<std::string, int64_t> sizes{{"F64", 8},  {"I64", 8}, {"F32", 4}, {"I32", 4},
                                                    {"BF16", 2}, {"F16", 2}, {"U8", 1}};
  const auto found = sizes.find(dtype);
  return found == sizes.end() ? 0 : found->second;
}

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

int64_t SafetensorsFile::Entry::elements() const {
  int64_t count = 1;
  for (int64_t dim : shape) count *= dim;
  return count;
}

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
  auto require = [&](bool holds, const auto&... what) {
    if (!holds) throw Error(ExitCode::checkpoint, str(name_, " is not a safetensors file: ", what...));
  };
  uint64_t length = 0;
  require(file_.bytes() >= 8, "it has ", file_.bytes(), " bytes");
  file_.read(&length, 0, 8);
  require(length >= 2 && length <= static_cast<uint64_t>(std::min(kLargestHeader, file_.bytes() - 8)),
          "its header is said to have ", length, " bytes in a file of ", file_.bytes());
  std::string text(length, '\0');
  file_.read(text.data(), 8, static_cast<int64_t>(length));
  require(text.front() == '{', "its header does not begin with {");
  JsonValue header;
  try {
    header = read_json(text, {.max_bytes = kLargestHeader, .max_depth = 4}, ExitCode::checkpoint);
  } catch (const JsonError& error) {
    require(false, error.what());
  }
  require(header.members.size() <= kMostTensors, "it holds ", header.members.size(), " tensors");
  const int64_t data_begin = 8 + static_cast<int64_t>(length), data_bytes = file_.bytes() - data_begin;
  for (const JsonValue::Member& member : header.members) {
    if (member.key == "__metadata__") continue;
    const JsonValue &dtype = member.value.at("dtype", ExitCode::checkpoint),
                    &shape = member.value.at("shape", ExitCode::checkpoint);
    const JsonValue& offsets = member.value.at("data_offsets", ExitCode::checkpoint);
    Entry entry{.name = member.key, .dtype = dtype.string, .shape = {}, .begin = 0, .end = 0};
    require(member.key.size() <= 512 && std::none_of(member.key.begin(), member.key.end(),
                                                     [](char c) { return static_cast<unsigned char>(c) < 0x20; }),
            "a tensor's name is longer than 512 characters or has control characters");
    require(member.value.members.size() == 3 && element_bytes(entry.dtype) > 0, "tensor ", entry.name, " has dtype \"",
            entry.dtype, "\"");
    require(shape.items.size() <= 8 && offsets.items.size() == 2, "tensor ", entry.name,
            " has a malformed shape or place");
    int64_t elements = 1;
    for (const JsonValue& dim : shape.items) {
      require(dim.type == JsonValue::Type::integer && dim.integer >= 0 &&
                  (dim.integer == 0 || elements <= (int64_t{1} << 50) / dim.integer),
              "tensor ", entry.name, " has an impossible shape");
      elements *= dim.integer;
      entry.shape.push_back(dim.integer);
    }
    for (const JsonValue& offset : offsets.items) {
      require(offset.type == JsonValue::Type::integer && offset.integer >= 0 && offset.integer <= data_bytes, "tensor ",
              entry.name, " lies outside of the file");
    }
    require(offsets.items[1].integer - offsets.items[0].integer == elements * element_bytes(entry.dtype), "tensor ",
            entry.name, " has ", offsets.items[1].integer - offsets.items[0].integer, " bytes for ", elements,
            " elements of ", entry.dtype);
    entry.begin = data_begin + offsets.items[0].integer;
    entry.end = data_begin + offsets.items[1].integer;
    entries_.push_back(std::move(entry));
  }
  std::vector<Entry> by_place = entries_;
  std::sort(by_place.begin(), by_place.end(),
            [](const Entry& a, const Entry& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
  int64_t next = data_begin;
  for (const Entry& entry : by_place) {
    require(entry.begin == next, "there is a gap or an overlap before tensor ", entry.name);
    next = entry.end;
  }
  require(next == file_.bytes(), "it goes on after the last tensor, or ends before");
}

const SafetensorsFile::Entry* SafetensorsFile::find(const std::string& name) const {
  const auto found = std::find_if(entries_.begin(), entries_.end(), [&](const Entry& e) { return e.name == name; });
  return found == entries_.end() ? nullptr : &*found;
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
