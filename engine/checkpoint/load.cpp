#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>

#include "engine/checkpoint/checkpoint.h"
#include "engine/checkpoint/file_system.h"
#include "engine/checkpoint/weights_hash.h"
#include "engine/config/json_reader.h"
#include "engine/core/error.h"
#include "engine/core/transfer.h"

namespace engine::checkpoint {
namespace {

constexpr int64_t kLargestJson = int64_t{1} << 28, kLargestCommit = 4096;
constexpr ExitCode kBad = ExitCode::checkpoint;

JsonValue read_object(Storage& storage, const std::string& directory, const std::string& name) {
  const std::string content = ExistingFile(directory, name, storage).read_all(kLargestJson);
  try {
    return read_json(content, {.max_bytes = kLargestJson}, kBad);
  } catch (const JsonError& error) {
    throw Error(kBad, str(directory, "/", name, ":", error.position().line, ": ", error.what()));
  }
}

// The text of a value, as it was written.
std::string to_text(const JsonValue& value) {
  switch (value.type) {
    case JsonValue::Type::null:
      return "null";
    case JsonValue::Type::boolean:
      return value.boolean ? "true" : "false";
    case JsonValue::Type::integer:
      return std::to_string(value.integer);
    case JsonValue::Type::number:
      return number_text(value.number);
    case JsonValue::Type::string:
      return json_string(value.string);
    case JsonValue::Type::array: {
      std::string text = "[";
      for (const JsonValue& item : value.items) text += (text.size() > 1 ? ", " : "") + to_text(item);
      return text + "]";
    }
    case JsonValue::Type::object: {
      std::string text = "{";
      for (const auto& member : value.members) {
        text += (text.size() > 1 ? ", " : "") + json_string(member.key) + ": " + to_text(member.value);
      }
      return text + "}";
    }
  }
  return "";
}

// What a checkpoint's JSON files say; a member of another type is an error with the file's name.
const JsonValue& member(const JsonValue& json, const char* key, JsonValue::Type type, const std::string& file) {
  const JsonValue* value = json.find(key);
  if (value == nullptr) throw Error(kBad, str(file, " has no \"", key, "\""));
  const bool fits = value->type == type || (type == JsonValue::Type::number && value->is_number());
  if (!fits) throw Error(kBad, str(file, ":", value->position.line, ": \"", key, "\" is not ", json_type_name(type)));
  return *value;
}

void read_lineage(const JsonValue& lineage, const std::string& file, TrainingState& state) {
  using Type = JsonValue::Type;
  const auto text = [&file](const JsonValue& json, const char* key) {
    return member(json, key, Type::string, file).string;
  };
  state.run = text(lineage, "run");
  state.config_hash = text(lineage, "config_hash");
  state.text_hash = text(lineage, "text_hash");
  for (const JsonValue& a : member(lineage, "ancestors", Type::array, file).items) {
    Ancestor& ancestor = state.ancestors.emplace_back(Ancestor{.run = text(a, "run"),
                                                               .digest = text(a, "digest"),
                                                               .config_hash = text(a, "config_hash"),
                                                               .text_hash = text(a, "text_hash"),
                                                               .step = member(a, "step", Type::integer, file).integer,
                                                               .changes = {}});
    for (const JsonValue& change : member(a, "changes", Type::array, file).items) {
      ancestor.changes.push_back(change.string);
    }
  }
}

TrainingState read_state(Storage& storage, const std::string& directory) {
  using Type = JsonValue::Type;
  const std::string file = directory + "/state.json";
  const JsonValue json = read_object(storage, directory, "state.json");
  TrainingState state;
  state.step = member(json, "step", Type::integer, file).integer;
  state.tokens = member(json, "tokens", Type::integer, file).integer;
  state.digest = member(json, "digest", Type::string, file).string;
  state.weights_hash = member(json, "weights_hash", Type::string, file).string;
  state.next_sample = member(member(json, "data", Type::object, file), "next_sample", Type::integer, file).integer;
  state.total_steps = member(member(json, "schedule", Type::object, file), "total_steps", Type::integer, file).integer;
  state.seed = member(member(json, "rng", Type::object, file), "seed", Type::integer, file).integer;
  state.config_directory = member(json, "config_directory", Type::string, file).string;
  state.config = to_text(member(json, "config", Type::object, file));
  read_lineage(member(json, "lineage", Type::object, file), file, state);
  for (const auto& array : member(json, "arrays", Type::object, file).members) {
    if (array.value.type != Type::array) throw Error(kBad, str(file, ": the array ", array.key, " is no list"));
    std::vector<double>& values = state.arrays[array.key];
    for (const JsonValue& item : array.value.items) {
      if (!item.is_number()) throw Error(kBad, str(file, ": the array ", array.key, " holds what is no number"));
      values.push_back(item.number);
    }
  }
  return state;
}

// A directory that is called after a step has to hold that step.
void check_step(const std::string& path, int64_t manifest_step, int64_t state_step) {
  const std::string name = std::filesystem::path(path + "/").parent_path().filename().string();
  if (manifest_step != state_step) {
    throw Error(kBad, str(path, "/state.json is of step ", state_step, " but manifest.json of step ", manifest_step));
  }
  if (name.starts_with("step-") && name != checkpoint_name(manifest_step)) {
    throw Error(kBad, str(path, " holds step ", manifest_step, ": it is not what its name says"));
  }
}

bool all_finite(const float* values, int64_t count) {
  return std::all_of(values, values + count, [](float value) { return std::isfinite(value); });
}

}  // namespace

struct Reader::Contents {
  Storage* storage = nullptr;
  std::string path;
  Manifest manifest;
  TrainingState state;
  mutable std::map<std::string, std::unique_ptr<SafetensorsFile>> open_files;

  const SafetensorsFile& file(const std::string& name) const {
    auto& open = open_files[name];
    if (!open) open = std::make_unique<SafetensorsFile>(path, name, *storage);
    return *open;
  }
  const SafetensorsFile::Entry& entry(const std::string& file_name, const std::string& tensor) const {
    const SafetensorsFile::Entry* found = file(file_name).find(tensor);
    if (found == nullptr) throw Error(kBad, str(path, "/", file_name, " does not hold ", tensor));
    return *found;
  }
};

Reader::Reader(const std::string& path, Storage& storage) : contents_(std::make_unique<Contents>()) {
  Contents& c = *contents_;
  c.storage = &storage;
  c.path = path;
  const std::string commit = ExistingFile(path, "COMMIT", storage).read_all(kLargestCommit);
  const std::string manifest = ExistingFile(path, "manifest.json", storage).read_all(kLargestJson);
  check_commit(commit, manifest, path);
  c.manifest = parse_manifest(manifest, path + "/manifest.json");
  for (const auto& [name, file] : c.manifest.files) {
    const int64_t bytes = ExistingFile(path, name, storage).bytes();
    if (bytes == file.bytes) continue;
    throw Error(kBad, str(path, "/", name, " has ", bytes, " bytes but the manifest says ", file.bytes));
  }
  c.state = read_state(storage, path);
  check_step(path, c.manifest.step, c.state.step);
}

Reader::~Reader() = default;
const TrainingState& Reader::state() const {
  return contents_->state;
}
const Manifest& Reader::manifest() const {
  return contents_->manifest;
}
const SafetensorsFile& Reader::tensors(const std::string& file) const {
  return contents_->file(file);
}
const std::string& Reader::path() const {
  return contents_->path;
}
Storage& Reader::storage() const {
  return *contents_->storage;
}

void Reader::load_weights(nn::ParameterStore& store) const {
  std::string problems;
  auto problem = [&](const auto&... what) { problems += str(problems.empty() ? "" : "; ", what...); };
  for (nn::Parameter& parameter : store.all()) {
    const std::string& name = parameter.spec.name;
    const auto found = contents_->manifest.weights.find(name);
    if (found == contents_->manifest.weights.end()) {
      problem(name, " is missing");
      continue;
    }
    const Manifest::Weight& weight = found->second;
    if (weight.shape != parameter.spec.dims) {
      problem(name, " has another shape");
      continue;
    }
    HostEdit draft(parameter.weight, HostEdit::From::zeros);
    contents_->file(weight.file).read(contents_->entry(weight.file, weight.tensor), 0, parameter.elements, draft.f32());
    const Hash128 hash = hash_blocks(name, draft.f32(), 0, parameter.elements);
    if (to_hex(reinterpret_cast<const uint8_t*>(&hash), sizeof(hash)) != weight.xxh3) {
      problem(name, " is damaged (its hash differs from the manifest's)");
    } else if (!all_finite(draft.f32(), parameter.elements)) {
      problem(name, " is not finite");
    }
    draft.put();
  }
  if (!problems.empty())
    throw Error(kBad, str("the weights of ", contents_->path, " do not fit the model: ", problems));
  store.weights_changed();
}

void Reader::load_moments(std::vector<MomentSlice>& slices) const {
  for (MomentSlice& slice : slices) {
    int64_t found = 0;
    const auto ranges = contents_->manifest.moments.find(slice.name);
    if (ranges == contents_->manifest.moments.end()) {
      throw Error(kBad, str(contents_->path, " holds no optimizer values of ", slice.name));
    }
    for (const Manifest::Moments& range : ranges->second) {
      const int64_t begin = std::max(slice.begin, range.begin);
      const int64_t end = std::min(slice.begin + slice.count, range.begin + range.count);
      if (begin >= end) continue;
      found += end - begin;
      for (const auto& [moment, to] : {std::pair{"exp_avg", slice.exp_avg}, {"exp_avg_sq", slice.exp_avg_sq}}) {
        const std::string tensor = moment_tensor(moment, slice.name, range.begin);
        HostEdit draft(Tensor(to + (begin - slice.begin), DType::f32, {end - begin}, slice.device),
                       HostEdit::From::zeros);
        contents_->file(range.file)
            .read(contents_->entry(range.file, tensor), begin - range.begin, end - begin, draft.f32());
        if (!all_finite(draft.f32(), end - begin)) {
          throw Error(kBad, str(contents_->path, "/", range.file, ": ", tensor, " is not finite"));
        }
        draft.put();
      }
    }
    if (found != slice.count) {
      throw Error(kBad, str(contents_->path, " holds ", found, " of the ", slice.count, " optimizer values of ",
                            slice.name, " from element ", slice.begin));
    }
  }
}

}  // namespace engine::checkpoint
