#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <set>

#include "comm/text.h"
#include "engine/checkpoint/checkpoint.h"
#include "engine/checkpoint/file_system.h"
#include "engine/checkpoint/safetensors.h"
#include "engine/checkpoint/tags.h"
#include "engine/checkpoint/weights_hash.h"
#include "engine/core/error.h"

namespace engine::checkpoint {

using Json = nlohmann::ordered_json;

namespace {

std::string shard_name(const char* kind, int64_t number, int64_t of) {
  char name[64];
  std::snprintf(name, sizeof(name), "%s-%05lld-of-%05lld.safetensors", kind, static_cast<long long>(number),
                static_cast<long long>(of));
  return name;
}

// Runs one rank's part of a stage; if it fails anywhere, every rank throws the first failure.
template <class Part>
void together(comm::Group& world, Part part) {
  std::string error;
  try {
    part();
  } catch (const std::exception& e) {
    error = e.what();
  }
  const std::vector<std::string> errors = comm::all_gather_text(world, error);
  for (size_t rank = 0; rank < errors.size(); ++rank) {
    if (errors[rank].empty()) continue;
    throw Error(ExitCode::environment, errors.size() == 1
                                           ? str("the checkpoint was not saved: ", errors[rank])
                                           : str("rank ", rank, ": the checkpoint was not saved: ", errors[rank]));
  }
}

void check_finite(const nn::Parameter& parameter) {
  const float* weight = parameter.weight.f32();
  for (int64_t i = 0; i < parameter.elements; ++i) {
    if (std::isfinite(weight[i])) continue;
    throw Error(ExitCode::numerical, str(parameter.spec.name, " is not finite at element ", i, "; it is not saved"));
  }
}

// The weights this rank writes: dense ones in turn over all ranks, experts by the first holder.
std::vector<const nn::Parameter*> weights_of_rank(const nn::ParameterStore& store, comm::ParallelGroups& groups) {
  std::vector<const nn::Parameter*> mine;
  int64_t bytes = 0, total = 0;
  for (const nn::Parameter& p : store.all()) total += p.spec.is_expert ? 0 : p.elements;
  for (const nn::Parameter& p : store.all()) {
    if (p.spec.is_expert) {
      if (groups.expert_dp->rank() == 0) mine.push_back(&p);
      continue;
    }
    const int64_t owner = bytes * groups.world->size() / std::max<int64_t>(1, total);
    if (owner == groups.world->rank()) mine.push_back(&p);
    bytes += p.elements;
  }
  return mine;
}

struct RankFiles {
  Json files = Json::array(), weights = Json::array(), moments = Json::array();
};

void add_file(Json& files, const std::string& name, const NewFile& file) {
  files.push_back({{"name", name}, {"bytes", file.bytes()}, {"sha256", file.sha256_hex()}});
}

std::string hex(const Hash128& hash) {
  return to_hex(reinterpret_cast<const uint8_t*>(&hash), sizeof(hash));
}

void write_weights(const Directory& directory, const std::string& name,
                   const std::vector<const nn::Parameter*>& weights, const SaveRequest& request, RankFiles& written) {
  std::vector<NamedTensor> tensors;
  for (const nn::Parameter* parameter : weights) {
    check_finite(*parameter);
    const std::string tensor = request.tensor_name(parameter->spec.name);
    tensors.push_back({tensor, parameter->weight});
    written.weights.push_back({{"name", parameter->spec.name},
                               {"tensor", tensor},
                               {"file", name},
                               {"shape", parameter->spec.dims},
                               {"xxh3", hex(hash_weight(*parameter))}});
  }
  NewFile file = directory.create(name);
  write_safetensors(file, tensors);
  add_file(written.files, name, file);
}

void write_moments(const Directory& directory, const std::string& name, const std::vector<MomentSlice>& slices,
                   RankFiles& written) {
  std::vector<NamedTensor> tensors;
  for (const MomentSlice& slice : slices) {
    const std::string suffix = slice.name + "@" + std::to_string(slice.begin);
    tensors.push_back({"exp_avg." + suffix, ConstTensor(slice.exp_avg, DType::f32, {slice.count})});
    tensors.push_back({"exp_avg_sq." + suffix, ConstTensor(slice.exp_avg_sq, DType::f32, {slice.count})});
    written.moments.push_back({{"name", slice.name}, {"file", name}, {"begin", slice.begin}, {"count", slice.count}});
  }
  NewFile file = directory.create(name);
  write_safetensors(file, tensors);
  add_file(written.files, name, file);
}

void write_text(const Directory& directory, const std::string& name, const std::string& text, Json& files) {
  NewFile file = directory.create(name);
  file.write(text);
  file.finish();
  add_file(files, name, file);
}

std::string state_text(const TrainingState& state) {
  Json json = {{"version", 1},
               {"step", state.step},
               {"tokens", state.tokens},
               {"digest", state.digest},
               {"weights_hash", state.weights_hash},
               {"config_directory", state.config_directory},
               {"arrays", state.arrays}};
  json["config"] = Json::parse(state.config);
  return json.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

// What only the first rank writes, from what all ranks wrote.
void write_manifest(const Directory& directory, const SaveRequest& request, const std::vector<std::string>& written) {
  Json manifest = {{"version", 1},
                   {"step", request.state.step},
                   {"state_classes", {"weights", "exp_avg", "exp_avg_sq", "state"}},
                   {"files", Json::array()},
                   {"weights", Json::array()},
                   {"moments", Json::array()}};
  Json weight_map = Json::object();
  int64_t total_bytes = 0;
  for (const std::string& text : written) {
    const Json rank = Json::parse(text);
    for (const char* list : {"files", "weights", "moments"}) {
      for (const Json& item : rank[list]) manifest[list].push_back(item);
    }
  }
  for (const Json& weight : manifest["weights"]) {
    const std::string name = weight["tensor"];
    if (weight_map.contains(name)) throw Error(ExitCode::bug, str(name, " was written by two ranks"));
    weight_map[name] = weight["file"];
    int64_t bytes = 4;
    for (int64_t dim : weight["shape"]) bytes *= dim;
    total_bytes += bytes;
  }
  Json& files = manifest["files"];
  const Json index = {{"metadata", {{"total_size", total_bytes}}}, {"weight_map", weight_map}};
  write_text(directory, "model.safetensors.index.json", index.dump(1) + "\n", files);
  for (const auto& [name, text] : request.extra_files) write_text(directory, name, text, files);
  write_text(directory, "state.json", state_text(request.state), files);
  const std::string text = manifest.dump(1) + "\n";
  Json unlisted;
  write_text(directory, "manifest.json", text, unlisted = Json::array());
  const Json commit = {{"magic", "switchyard checkpoint"},
                       {"manifest_bytes", text.size()},
                       {"manifest_sha256", to_hex(sha256(text.data(), static_cast<int64_t>(text.size())))}};
  write_text(directory, "COMMIT", commit.dump(), unlisted);
  directory.sync();
}

// Numbers the ranks that have something to write.
struct Numbering {
  int64_t mine = 0, of = 0;  // mine 0: nothing
};
Numbering number_shards(comm::Group& world, bool has_some) {
  int64_t flag = has_some ? 1 : 0;
  std::vector<int64_t> flags(static_cast<size_t>(world.size()));
  world.all_gather(Tensor(flags.data(), DType::i64, {world.size()}), ConstTensor(&flag, DType::i64, {1})).wait();
  Numbering numbering;
  for (int r = 0; r < world.size(); ++r) {
    numbering.of += flags[static_cast<size_t>(r)];
    if (r == world.rank() && has_some) numbering.mine = numbering.of;
  }
  return numbering;
}

}  // namespace

std::string save_checkpoint(const std::string& directory, const SaveRequest& request, comm::ParallelGroups& groups) {
  comm::Group& world = *groups.world;
  char step_name[32];
  std::snprintf(step_name, sizeof(step_name), "step-%08lld", static_cast<long long>(request.state.step));
  const std::string path = directory + "/" + step_name;
  const std::string temporary = std::string(".tmp-") + step_name;
  const bool leads = world.rank() == 0;
  together(world, [&] {
    if (!leads) return;
    const Directory parent = Directory::open_or_make(directory);
    for (const std::string& name : parent.names()) {
      if (name.starts_with(".tmp-")) parent.remove_directory(name);
      if (name == step_name) throw Error(ExitCode::checkpoint, str(path, " exists already and is never overwritten"));
    }
    parent.make(temporary);
  });
  const std::vector<const nn::Parameter*> weights = weights_of_rank(*request.store, groups);
  const Numbering model = number_shards(world, !weights.empty());
  const Numbering optimizer = number_shards(world, !request.moments.empty());
  RankFiles written;
  together(world, [&] {
    const Directory inside = Directory::open(directory + "/" + temporary);
    if (model.mine > 0) write_weights(inside, shard_name("model", model.mine, model.of), weights, request, written);
    if (optimizer.mine > 0)
      write_moments(inside, shard_name("optimizer", optimizer.mine, optimizer.of), request.moments, written);
  });
  const Json mine = {{"files", written.files}, {"weights", written.weights}, {"moments", written.moments}};
  const std::vector<std::string> all = comm::all_gather_text(world, mine.dump());
  together(world, [&] {
    if (!leads) return;
    write_manifest(Directory::open(directory + "/" + temporary), request, all);
    const Directory parent = Directory::open(directory);
    parent.rename(temporary, step_name);
    parent.sync();
    remove_checkpoints(directory, expendable_checkpoints(directory, request.keep_last));
  });
  return path;
}

std::vector<std::string> expendable_checkpoints(const std::string& directory, int64_t keep_last, Storage& storage) {
  std::set<std::string> tagged;
  try {
    for (const auto& [tag, step] : read_tags(directory, storage)) tagged.insert(step);
  } catch (const Error&) {
    return {};  // what may be wanted is not known: nothing goes
  }
  std::vector<std::string> steps = list_checkpoints(directory, storage);
  steps.erase(steps.begin(), steps.begin() + std::min<int64_t>(keep_last, static_cast<int64_t>(steps.size())));
  std::erase_if(steps, [&](const std::string& step) { return tagged.contains(step); });
  return steps;
}

void remove_checkpoints(const std::string& directory, const std::vector<std::string>& names, Storage& storage) {
  const Directory parent = Directory::open(directory, storage);
  for (const std::string& name : names) {
    parent.rename(name, ".trash-" + name);
    parent.remove_directory(".trash-" + name);
  }
  for (const std::string& name : parent.names()) {
    if (name.starts_with(".trash-") || name.starts_with(".tmp-")) parent.remove_directory(name);
  }
}

std::vector<std::string> list_checkpoints(const std::string& directory, Storage& storage) {
  std::vector<std::string> steps;
  for (const std::string& name : names_in(directory, storage)) {
    if (name.starts_with("step-") && name.size() == 13) steps.push_back(name);
  }
  std::sort(steps.rbegin(), steps.rend());
  return steps;
}

}  // namespace engine::checkpoint
