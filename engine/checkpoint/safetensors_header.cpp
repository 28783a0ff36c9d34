#include "engine/checkpoint/safetensors_header.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "engine/config/json_reader.h"
#include "engine/core/error.h"

namespace engine::checkpoint {
namespace {

using Json = nlohmann::json;

constexpr int64_t kLargestHeader = 100'000'000;
constexpr size_t kMostTensors = 1'000'000, kMostDims = 8, kLongestName = 512;
constexpr int64_t kMostElements = int64_t{1} << 50;

template <class... Parts>
[[noreturn]] void refuse(const Parts&... parts) {
  throw Error(ExitCode::checkpoint, str(parts...));
}

int64_t element_bytes(std::string_view dtype) {
  static constexpr std::pair<std::string_view, int64_t> kSizes[] = {
      {"F32", 4}, {"BF16", 2}, {"F16", 2}, {"F64", 8}, {"I64", 8},  {"I32", 4},     {"I16", 2},    {"I8", 1},
      {"U8", 1},  {"U16", 2},  {"U32", 4}, {"U64", 8}, {"BOOL", 1}, {"F8_E4M3", 1}, {"F8_E5M2", 1}};
  for (const auto& [name, bytes] : kSizes) {
    if (name == dtype) return bytes;
  }
  return 0;
}

// Takes the parser's events; the shape of a header is fixed, so each place in it is one state.
class HeaderBuilder : public nlohmann::json_sax<Json> {
 public:
  explicit HeaderBuilder(int64_t file_bytes) : file_bytes_(file_bytes) {}
  std::vector<SafetensorsEntry> take() { return std::move(entries_); }

  bool start_object(std::size_t) override {
    if (at_ == At::start) return go(At::names);
    if (at_ == At::tensor_value) return go(At::tensor);
    if (at_ == At::metadata_value) return go(At::metadata);
    misplaced("an object");
  }
  bool end_object() override {
    if (at_ == At::names) return go(At::end);
    if (at_ == At::tensor) finish_tensor();
    if (at_ == At::metadata) finish_metadata();
    return go(At::names);
  }
  bool start_array(std::size_t) override {
    if (at_ == At::shape_value) return go(At::shape);
    if (at_ == At::offsets_value) return go(At::offsets);
    misplaced("a list");
  }
  bool end_array() override { return go(At::tensor); }
  bool key(string_t& name) override {
    if (at_ == At::metadata) {
      metadata_.push_back(name);
      return go(At::metadata_text);
    }
    return at_ == At::tensor ? tensor_key(name) : name_key(name);
  }
  bool string(string_t& text) override {
    if (at_ == At::metadata_text) return go(At::metadata);
    if (at_ != At::dtype_value) misplaced("a text");
    if (element_bytes(text) == 0) {
      refuse("tensor ", entry().name, " has the unknown dtype ", json_string(text.substr(0, 40)));
    }
    entry().dtype = text;
    return go(At::tensor);
  }
  bool number_unsigned(number_unsigned_t value) override {
    if (at_ != At::shape && at_ != At::offsets) misplaced("a number");
    std::vector<int64_t>& list = at_ == At::shape ? entry().shape : offsets_;
    if (list.size() == (at_ == At::shape ? kMostDims : 2)) {
      refuse("tensor ", entry().name, at_ == At::shape ? " has more than 8 dimensions" : " has more than two offsets");
    }
    if (value > static_cast<uint64_t>(INT64_MAX)) refuse("tensor ", entry().name, " has the impossible size ", value);
    list.push_back(static_cast<int64_t>(value));
    return true;
  }
  bool number_integer(number_integer_t) override { misplaced("a negative number"); }
  bool number_float(number_float_t, const string_t&) override { misplaced("a number that is no integer"); }
  bool boolean(bool) override { misplaced("true or false"); }
  bool null() override { misplaced("null"); }
  bool binary(binary_t&) override { misplaced("bytes"); }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) override {
    refuse("its header is not valid JSON at byte ", position);
  }

 private:
  enum class At {
    start,
    names,  // between tensors
    tensor_value,
    tensor,  // between the keys of a tensor
    dtype_value,
    shape_value,
    shape,
    offsets_value,
    offsets,
    metadata_value,
    metadata,
    metadata_text,
    end
  };

  bool go(At to) {
    at_ = to;
    return true;
  }
  [[noreturn]] void misplaced(const char* what) {
    if (entries_.empty()) refuse("its header has ", what, " where that cannot be");
    refuse("its header has ", what, " where that cannot be, in or after tensor ", entries_.back().name);
  }
  SafetensorsEntry& entry() { return entries_.back(); }

  bool name_key(const std::string& name) {
    if (name == "__metadata__") {
      if (has_metadata_) refuse("__metadata__ stands twice");
      has_metadata_ = true;
      return go(At::metadata_value);
    }
    if (!is_tensor_name(name)) {
      refuse("a tensor's name has ", name.size(), " bytes or control characters in it, but may have 1 to 512 and none");
    }
    if (entries_.size() == kMostTensors) refuse("it holds more than ", kMostTensors, " tensors");
    entries_.push_back({.name = name, .dtype = {}, .shape = {}});
    offsets_.clear();
    has_shape_ = has_offsets_ = false;
    return go(At::tensor_value);
  }
  bool tensor_key(const std::string& name) {
    const auto once = [&](bool& seen, At to) {
      if (seen) refuse("tensor ", entry().name, " has \"", name, "\" twice");
      seen = true;
      return go(to);
    };
    bool has_dtype = !entry().dtype.empty();
    if (name == "dtype") return once(has_dtype, At::dtype_value);
    if (name == "shape") return once(has_shape_, At::shape_value);
    if (name == "data_offsets") return once(has_offsets_, At::offsets_value);
    refuse("tensor ", entry().name, " has the unknown key ", json_string(name.substr(0, 40)));
  }

  void finish_tensor() {
    SafetensorsEntry& tensor = entry();
    if (tensor.dtype.empty() || !has_shape_ || offsets_.size() != 2) {
      refuse("tensor ", tensor.name, " lacks its dtype, its shape or two data_offsets");
    }
    int64_t elements = 1;
    for (int64_t dim : tensor.shape) {
      if (dim > 0 && elements > kMostElements / dim) refuse("tensor ", tensor.name, " has an impossible shape");
      elements *= dim;
    }
    const int64_t bytes = elements * element_bytes(tensor.dtype);
    if (offsets_[0] > offsets_[1] || offsets_[1] > file_bytes_) {
      refuse("tensor ", tensor.name, " lies outside of the file");
    }
    if (offsets_[1] - offsets_[0] != bytes) {
      refuse("tensor ", tensor.name, " has ", offsets_[1] - offsets_[0], " bytes for ", elements, " elements of ",
             tensor.dtype);
    }
    tensor.begin = offsets_[0], tensor.end = offsets_[1];
  }
  void finish_metadata() {
    std::sort(metadata_.begin(), metadata_.end());
    const auto twice = std::adjacent_find(metadata_.begin(), metadata_.end());
    if (twice != metadata_.end()) refuse("__metadata__ has ", json_string(twice->substr(0, 40)), " twice");
  }

  int64_t file_bytes_;
  At at_ = At::start;
  std::vector<SafetensorsEntry> entries_;
  std::vector<int64_t> offsets_;
  std::vector<std::string> metadata_;
  bool has_shape_ = false, has_offsets_ = false, has_metadata_ = false;
};

void check_names_once(const std::vector<SafetensorsEntry>& entries) {
  std::vector<std::string_view> names;
  for (const SafetensorsEntry& entry : entries) names.push_back(entry.name);
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice != names.end()) refuse("tensor ", *twice, " stands twice");
}

// The tensors have to follow each other without gaps to the end of the file.
void check_tiling(const std::vector<SafetensorsEntry>& entries, int64_t data_begin, int64_t file_bytes) {
  std::vector<const SafetensorsEntry*> by_place;
  for (const SafetensorsEntry& entry : entries) by_place.push_back(&entry);
  std::sort(by_place.begin(), by_place.end(), [](const SafetensorsEntry* a, const SafetensorsEntry* b) {
    return std::pair(a->begin, a->end) < std::pair(b->begin, b->end);
  });
  int64_t next = data_begin;
  for (const SafetensorsEntry* entry : by_place) {
    if (entry->begin != next) refuse("there is a gap or an overlap before tensor ", entry->name);
    next = entry->end;
  }
  if (next != file_bytes) {
    refuse("its tensors end at byte ", next, " but the file has ", file_bytes);
  }
}

}  // namespace

int64_t SafetensorsEntry::elements() const {
  int64_t count = 1;
  for (int64_t dim : shape) count *= dim;
  return count;
}

bool is_tensor_name(std::string_view name) {
  return !name.empty() && name.size() <= kLongestName && std::none_of(name.begin(), name.end(), [](char c) {
    return static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
  });
}

int64_t safetensors_header_bytes(const unsigned char first[8], int64_t file_bytes) {
  uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = length << 8 | first[i];
  if (length < 2 || length > static_cast<uint64_t>(std::max<int64_t>(0, std::min(kLargestHeader, file_bytes - 8)))) {
    refuse("its header is said to have ", length, " bytes in a file of ", file_bytes);
  }
  return static_cast<int64_t>(length);
}

std::vector<SafetensorsEntry> parse_safetensors_header(std::string_view header, int64_t file_bytes) {
  if (header.empty() || header.front() != '{') refuse("its header does not begin with {");
  // the parser would take it for the end of the text
  if (header.find('\0') != std::string_view::npos) refuse("its header is not valid JSON: there is a zero byte");
  const int64_t data_begin = 8 + static_cast<int64_t>(header.size());
  HeaderBuilder builder(file_bytes - data_begin);
  Json::sax_parse(header.begin(), header.end(), &builder, Json::input_format_t::json, true, false);
  std::vector<SafetensorsEntry> entries = builder.take();
  for (SafetensorsEntry& entry : entries) entry.begin += data_begin, entry.end += data_begin;
  check_names_once(entries);
  check_tiling(entries, data_begin, file_bytes);
  return entries;
}

}  // namespace engine::checkpoint
