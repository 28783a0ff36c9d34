#include <algorithm>
#include <map>
#include <set>

#include "engine/checkpoint/checkpoint.h"
#include "engine/checkpoint/file_system.h"
#include "engine/checkpoint/safetensors.h"
#include "engine/checkpoint/weights_hash.h"
#include "engine/config/json_reader.h"
#include "engine/core/error.h"

namespace engine::checkpoint {
namespace {

constexpr int64_t kLargestJson = int64_t{1} << 28;
constexpr ExitCode kBad = ExitCode::checkpoint;

JsonValue read_object(Storage& storage, const std::string& directory, const std::string& name,
                      std::string* text = nullptr) {
  const std::string content = ExistingFile(directory, name, storage).read_all(kLargestJson);
  try {
    JsonValue value = read_json(content, {.max_bytes = kLargestJson}, kBad);
    if (text != nullptr) *text = content;
    return value;
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

TrainingState read_state(Storage& storage, const std::string& directory) {
  const JsonValue json = read_object(storage, directory, "state.json");
  TrainingState state;
  state.step = json.at("step", kBad).integer;
  state.tokens = json.at("tokens", kBad).integer;
  state.digest = json.at("digest", kBad).string;
  state.weights_hash = json.at("weights_hash", kBad).string;
  state.next_sample = json.at("data", kBad).at("next_sample", kBad).integer;
  state.total_steps = json.at("schedule", kBad).at("total_steps", kBad).integer;
  state.seed = json.at("rng", kBad).at("seed", kBad).integer;
  const JsonValue& lineage = json.at("lineage", kBad);
  state.run = lineage.at("run", kBad).string;
  state.config_hash = lineage.at("config_hash", kBad).string;
  for (const JsonValue& a : lineage.at("ancestors", kBad).items) {
    state.ancestors.push_back({.run = a.at("run", kBad).string,
                               .digest = a.at("digest", kBad).string,
                               .config_hash = a.at("config_hash", kBad).string,
                               .text_hash = a.at("text_hash", kBad).string,
                               .step = a.at("step", kBad).integer});
  }
  state.config_directory = json.at("config_directory", kBad).string;
  state.config = to_text(json.at("config", kBad));
  for (const auto& member : json.at("arrays", kBad).members) {
    for (const JsonValue& item : member.value.items) state.arrays[member.key].push_back(item.number);
  }
  return state;
}

}  // namespace

struct Reader::Contents {
  struct Weight {
    std::string file, tensor, hash;
    std::vector<int64_t> shape;
  };
  struct Moment {
    std::string file;
    int64_t begin, count;
  };
  Storage* storage;
  std::string path;
  TrainingState state;
  std::vector<FileInfo> files;
  std::map<std::string, std::string> sha256_of;
  std::map<std::string, Weight> weights;
  std::map<std::string, std::vector<Moment>> moments;
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
  const JsonValue commit = read_object(storage, path, "COMMIT");
  std::string text;
  const JsonValue manifest = read_object(storage, path, "manifest.json", &text);
  const std::string sha = to_hex(sha256(text.data(), static_cast<int64_t>(text.size())));
  if (commit.at("magic", kBad).string != "switchyard checkpoint" || commit.at("manifest_sha256", kBad).string != sha ||
      commit.at("manifest_bytes", kBad).integer != static_cast<int64_t>(text.size())) {
    throw Error(kBad, str(path, "/manifest.json is not the one that COMMIT names"));
  }
  if (manifest.at("version", kBad).integer != 1) {
    throw Error(kBad,
                str(path, " has format version ", manifest.at("version", kBad).integer, " but this program reads 1"));
  }
  for (const JsonValue& file : manifest.at("files", kBad).items) {
    const FileInfo info{file.at("name", kBad).string, file.at("bytes", kBad).integer};
    const int64_t bytes = ExistingFile(path, info.name, storage).bytes();
    if (bytes != info.bytes) {
      throw Error(kBad, str(path, "/", info.name, " has ", bytes, " bytes but the manifest says ", info.bytes));
    }
    c.files.push_back(info);
    c.sha256_of[info.name] = file.at("sha256", kBad).string;
  }
  for (const JsonValue& weight : manifest.at("weights", kBad).items) {
    Contents::Weight w{
        weight.at("file", kBad).string, weight.at("tensor", kBad).string, weight.at("xxh3", kBad).string, {}};
    for (const JsonValue& dim : weight.at("shape", kBad).items) w.shape.push_back(dim.integer);
    if (!c.weights.emplace(weight.at("name", kBad).string, w).second) {
      throw Error(kBad, str(path, " holds ", weight.at("name", kBad).string, " twice"));
    }
  }
  for (const JsonValue& moment : manifest.at("moments", kBad).items) {
    c.moments[moment.at("name", kBad).string].push_back(
        {moment.at("file", kBad).string, moment.at("begin", kBad).integer, moment.at("count", kBad).integer});
  }
  c.state = read_state(storage, path);
}

Reader::~Reader() = default;
const TrainingState& Reader::state() const {
  return contents_->state;
}
std::vector<Reader::FileInfo> Reader::files() const {
  return contents_->files;
}
int64_t Reader::num_weights() const {
  return static_cast<int64_t>(contents_->weights.size());
}

void Reader::load_weights(nn::ParameterStore& store) const {
  std::string problems;
  auto problem = [&](const auto&... what) { problems += str(problems.empty() ? "" : "; ", what...); };
  for (nn::Parameter& parameter : store.all()) {
    const std::string& name = parameter.spec.name;
    const auto found = contents_->weights.find(name);
    if (found == contents_->weights.end()) {
      problem(name, " is missing");
    } else if (found->second.shape != parameter.spec.dims) {
      problem(name, " has another shape");
    } else {
      const SafetensorsFile& file = contents_->file(found->second.file);
      file.read(contents_->entry(found->second.file, found->second.tensor), 0, parameter.elements,
                parameter.weight.f32());
      const Hash128 hash = hash_weight(parameter);
      if (to_hex(reinterpret_cast<const uint8_t*>(&hash), sizeof(hash)) != found->second.hash) {
        problem(name, " is damaged (its hash differs from the manifest's)");
      }
    }
  }
  if (!problems.empty())
    throw Error(kBad, str("the weights of ", contents_->path, " do not fit the model: ", problems));
  store.weights_changed();
}

void Reader::load_moments(std::vector<MomentSlice>& slices) const {
  for (MomentSlice& slice : slices) {
    int64_t found = 0;
    for (const Contents::Moment& moment : contents_->moments[slice.name]) {
      const int64_t begin = std::max(slice.begin, moment.begin);
      const int64_t end = std::min(slice.begin + slice.count, moment.begin + moment.count);
      if (begin >= end) continue;
      found += end - begin;
      const std::string suffix = slice.name + "@" + std::to_string(moment.begin);
      const SafetensorsFile& file = contents_->file(moment.file);
      file.read(contents_->entry(moment.file, "exp_avg." + suffix), begin - moment.begin, end - begin,
                slice.exp_avg + (begin - slice.begin));
      file.read(contents_->entry(moment.file, "exp_avg_sq." + suffix), begin - moment.begin, end - begin,
                slice.exp_avg_sq + (begin - slice.begin));
    }
    if (found != slice.count) {
      throw Error(kBad, str(contents_->path, " holds ", found, " of the ", slice.count, " optimizer values of ",
                            slice.name, " from element ", slice.begin));
    }
  }
}

std::vector<std::string> verify_checkpoint(const std::string& path, Storage& storage) {
  std::vector<std::string> problems;
  std::unique_ptr<Reader> reader;
  try {
    reader = std::make_unique<Reader>(path, storage);
  } catch (const Error& error) {
    return {error.what()};
  }
  return reader->damaged_files();
}

std::vector<std::string> Reader::damaged_files() const {
  std::vector<std::string> problems;
  std::set<std::string> listed{"COMMIT", "manifest.json"};
  for (const FileInfo& file : contents_->files) {
    listed.insert(file.name);
    try {
      if (ExistingFile(contents_->path, file.name, *contents_->storage).sha256_hex() !=
          contents_->sha256_of.at(file.name)) {
        problems.push_back(
            str(contents_->path, "/", file.name, " is damaged: its SHA-256 differs from the manifest's"));
      } else if (file.name.ends_with(".safetensors")) {
        contents_->file(file.name);
      }
    } catch (const Error& error) {
      problems.push_back(error.what());
    }
  }
  for (const std::string& name : Directory::open(contents_->path, *contents_->storage).names()) {
    if (!listed.contains(name))
      problems.push_back(str(contents_->path, "/", name, " does not belong to the checkpoint"));
  }
  return problems;
}

std::string newest_whole_checkpoint(const std::string& directory, std::vector<std::string>& problems,
                                    Storage& storage) {
  for (const std::string& name : list_checkpoints(directory, storage)) {
    const std::string path = directory + "/" + name;
    const std::vector<std::string> found = verify_checkpoint(path, storage);
    if (found.empty()) return path;
    problems.insert(problems.end(), found.begin(), found.end());
  }
  return "";
}

}  // namespace engine::checkpoint
