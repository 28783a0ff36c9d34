#include "engine/train/expert_trace.h"

#include <xxhash.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "engine/config/json_reader.h"
#include "engine/core/error.h"

namespace engine::train {
namespace {

constexpr char kMagic[] = "SWYTRC1\n";
constexpr size_t kMagicBytes = 8;

template <class T>
void put(std::string& bytes, const T* values, size_t count) {
  bytes.append(reinterpret_cast<const char*>(values), count * sizeof(T));
}

template <class T>
void get(const char*& at, T* values, size_t count) {
  std::memcpy(values, at, count * sizeof(T));
  at += count * sizeof(T);
}

std::string read_all(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file)
    throw Error(ExitCode::usage, str("cannot read ", path,
                                     "; train with log.expert_trace_steps or use `experts RUN --trace` to get one"));
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

int64_t positive(const JsonValue& header, const char* name, const std::string& path, int64_t most) {
  const int64_t value = header.at(name, ExitCode::data).integer;
  if (value < 1 || value > most) throw Error(ExitCode::data, str(path, " says \"", name, "\" is ", value));
  return value;
}

// The header, and where the records begin.
TraceHeader parse_header(const std::string& bytes, const std::string& path, size_t& records) {
  uint32_t length = 0;
  const bool ours = bytes.size() >= kMagicBytes + 4 && bytes.compare(0, kMagicBytes, kMagic) == 0;
  if (ours) std::memcpy(&length, bytes.data() + kMagicBytes, 4);
  if (!ours || length > bytes.size() - kMagicBytes - 4) {
    throw Error(
        ExitCode::data,
        str(path, " is no expert trace; train with log.expert_trace_steps or use `experts RUN --trace` to get one"));
  }
  records = kMagicBytes + 4 + length;
  const JsonValue json = read_json(std::string_view(bytes).substr(kMagicBytes + 4, length), {}, ExitCode::data);
  constexpr int64_t kMost = int64_t{1} << 20;
  TraceHeader header{.experts = positive(json, "experts", path, 1024),
                     .slots = positive(json, "slots", path, 1024),
                     .seq_len = positive(json, "seq_len", path, kMost),
                     .sequences = positive(json, "sequences", path, kMost),
                     .granules = positive(json, "granules", path, kMost),
                     .ranks = positive(json, "ranks", path, kMost),
                     .ep_size = positive(json, "ep_size", path, kMost),
                     .capacity_factor = json.at("capacity_factor", ExitCode::data).number};
  for (const JsonValue& layer : json.at("layers", ExitCode::data).items) header.layers.push_back(layer.integer);
  for (const JsonValue& name : json.at("sources", ExitCode::data).items) header.sources.push_back(name.string);
  return header;
}

}  // namespace

int64_t TraceHeader::record_bytes() const {
  const int64_t choices = static_cast<int64_t>(layers.size()) * tokens() * slots;
  return 8 + 4 * 8 + 2 * (sequences + choices) + 8;
}

std::string TraceHeader::bytes() const {
  std::string json =
      str("{\"experts\":", experts, ",\"slots\":", slots, ",\"seq_len\":", seq_len, ",\"sequences\":", sequences,
          ",\"granules\":", granules, ",\"ranks\":", ranks, ",\"ep_size\":", ep_size,
          ",\"capacity_factor\":", number_text(capacity_factor), ",\"layers\":[");
  for (size_t l = 0; l < layers.size(); ++l) json += str(l == 0 ? "" : ",", layers[l]);
  json += "],\"sources\":[";
  for (size_t s = 0; s < sources.size(); ++s) json += str(s == 0 ? "" : ",", json_string(sources[s]));
  json += "]}";
  std::string all(kMagic, kMagicBytes);
  const uint32_t length = static_cast<uint32_t>(json.size());
  put(all, &length, 1);
  return all + json;
}

std::string trace_record(const TraceStep& step) {
  std::string bytes;
  bytes.reserve(48 + 2 * (step.sources.size() + step.choices_LTK.size()));
  put(bytes, &step.step, 1);
  const double seconds[3] = {step.seconds, step.expert_seconds, step.exchange_seconds};
  put(bytes, seconds, 3);
  put(bytes, &step.bytes_sent, 1);
  put(bytes, step.sources.data(), step.sources.size());
  put(bytes, step.choices_LTK.data(), step.choices_LTK.size());
  const uint64_t hash = XXH3_64bits(bytes.data(), bytes.size());
  put(bytes, &hash, 1);
  return bytes;
}

ExpertTrace read_trace(const std::string& path) {
  const std::string bytes = read_all(path);
  size_t at = 0;
  ExpertTrace trace{.header = parse_header(bytes, path, at), .steps = {}};
  const size_t each = static_cast<size_t>(trace.header.record_bytes());
  for (; at + each <= bytes.size(); at += each) {
    const char* record = bytes.data() + at;
    uint64_t hash = 0;
    std::memcpy(&hash, record + each - 8, 8);
    if (hash != XXH3_64bits(record, each - 8)) {
      throw Error(ExitCode::data,
                  str(path, " is damaged in record ", trace.steps.size() + 1, "; trace the steps again"));
    }
    TraceStep& step = trace.steps.emplace_back();
    step.sources.resize(static_cast<size_t>(trace.header.sequences));
    step.choices_LTK.resize(trace.header.layers.size() *
                            static_cast<size_t>(trace.header.tokens() * trace.header.slots));
    double seconds[3];
    get(record, &step.step, 1);
    get(record, seconds, 3);
    get(record, &step.bytes_sent, 1);
    get(record, step.sources.data(), step.sources.size());
    get(record, step.choices_LTK.data(), step.choices_LTK.size());
    step.seconds = seconds[0], step.expert_seconds = seconds[1], step.exchange_seconds = seconds[2];
    for (uint16_t expert : step.choices_LTK) {
      if (expert == kNotRouted || expert < trace.header.experts) continue;
      throw Error(ExitCode::data, str(path, " names expert ", expert, " of ", trace.header.experts));
    }
  }
  if (trace.steps.empty()) throw Error(ExitCode::data, str(path, " holds no step; trace at least one"));
  return trace;
}

void begin_trace(const std::string& path, const TraceHeader& header, int64_t step) {
  const std::string head = header.bytes();
  std::error_code error;
  if (std::filesystem::exists(path, error)) {
    const std::string bytes = read_all(path);
    const size_t each = static_cast<size_t>(header.record_bytes());
    size_t end = head.size();
    for (; bytes.compare(0, head.size(), head) == 0 && end + each <= bytes.size(); end += each) {
      int64_t number = 0;
      std::memcpy(&number, bytes.data() + end, 8);
      if (number > step) break;
    }
    if (end > head.size()) {
      std::filesystem::resize_file(path, end, error);
      if (!error) return;
    }
  }
  std::ofstream(path, std::ios::binary | std::ios::trunc) << head;
}

bool append_trace(const std::string& path, const TraceStep& step) {
  std::ofstream file(path, std::ios::binary | std::ios::app);
  const std::string record = trace_record(step);
  file.write(record.data(), static_cast<std::streamsize>(record.size()));
  return static_cast<bool>(file.flush());
}

}  // namespace engine::train
