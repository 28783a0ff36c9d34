#include "engine/checkpoint/save.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "engine/checkpoint/file_system.h"
#include "engine/checkpoint/safetensors.h"
#include "engine/checkpoint/save_checks.h"
#include "engine/checkpoint/together.h"
#include "engine/checkpoint/weights_hash.h"
#include "engine/core/error.h"

namespace engine::checkpoint {

using Json = nlohmann::ordered_json;
using Piece = Snapshot::Piece;

namespace {

const char kNotSaved[] = "the checkpoint was not saved: ";

// What one rank wrote, or all of them: lists of the manifest.
struct Written {
  Json files = Json::array(), weights = Json::array(), moments = Json::array();
};

void check_finite(const Piece& piece, int64_t begin, int64_t end) {
  constexpr uint32_t kExponent = 0x7f800000;
  uint32_t bad = 0;  // without a branch, so that it goes at the speed of memory
  for (int64_t i = begin; i < end; ++i) bad |= (std::bit_cast<uint32_t>(piece.copy[i]) & kExponent) == kExponent;
  if (bad == 0) return;
  const float* first = std::find_if_not(piece.copy + begin, piece.copy + end, [](float x) { return std::isfinite(x); });
  throw Error(ExitCode::numerical, str(piece.kind == "weight" ? "" : piece.kind + " of ", piece.name,
                                       " is not finite at element ", piece.begin + (first - piece.copy)));
}

// Of finite values; each block is read from memory once for both.
std::string checked_hash(const Piece& piece) {
  const std::string key = piece.hash_key();
  Hash128 total;
  for (int64_t begin = 0; begin < piece.count; begin += nn::kParameterBlock) {
    const int64_t count = std::min(piece.count - begin, nn::kParameterBlock);
    check_finite(piece, begin, begin + count);
    total += hash_blocks(key, piece.copy + begin, piece.begin + begin, count);
  }
  return hex(total);
}

std::string tensor_of(const Piece& piece, const SaveRequest& request) {
  if (piece.kind == "weight") return request.tensor_name(piece.name);
  return piece.kind + "." + piece.name + "@" + std::to_string(piece.begin);
}

// A weight has an entry of its own, the two moments of a range share one.
void list_piece(const Piece& piece, const std::string& file, const std::string& tensor, Json& list) {
  const std::string hash = checked_hash(piece);
  if (piece.kind == "exp_avg_sq") {
    list.back()["exp_avg_sq"] = hash;
    return;
  }
  Json entry = {{"name", piece.name},   {"file", file},         {"dtype", "F32"},
                {"shape", piece.shape}, {"begin", piece.begin}, {"count", piece.count}};
  if (piece.kind == "weight") {
    entry["tensor"] = tensor;
    entry["xxh3"] = hash;
  } else {
    entry["updated"] = piece.was_updated;
    entry["exp_avg"] = hash;
  }
  list.push_back(entry);
}

// The hashes are those of the snapshot, taken before a byte of it is written.
void write_shard(const Directory& directory, const std::string& name, const std::vector<Piece>& pieces,
                 const SaveRequest& request, Json& list, Json& files) {
  if (name.empty()) return;
  std::vector<NamedTensor> tensors;
  for (const Piece& piece : pieces) {
    const std::string tensor = tensor_of(piece, request);
    Tensor values(piece.copy, DType::f32, {piece.count});
    if (piece.kind == "weight") {
      values.num_dims = 0;
      for (int64_t dim : piece.shape) values.dims[values.num_dims++] = dim;
      values.row_stride = values.columns();
    }
    tensors.push_back({tensor, values});
    list_piece(piece, name, tensor, list);
  }
  NewFile file = directory.create(name);
  write_safetensors(file, tensors);
  files.push_back({{"name", name}, {"bytes", file.bytes()}, {"sha256", file.sha256_hex()}});
}

void write_text(const Directory& directory, const std::string& name, const std::string& text, Json* files) {
  NewFile file = directory.create(name);
  file.write(text);
  file.finish();
  if (files != nullptr) files->push_back({{"name", name}, {"bytes", file.bytes()}, {"sha256", file.sha256_hex()}});
}

Written gather(comm::Group& world, const Written& mine) {
  const Json report = {{"files", mine.files}, {"weights", mine.weights}, {"moments", mine.moments}};
  Written all;
  for (const std::string& text : comm::all_gather_text(world, report.dump())) {
    const Json rank = Json::parse(text);
    for (auto [to, name] : {std::pair(&all.files, "files"), {&all.weights, "weights"}, {&all.moments, "moments"}}) {
      for (const Json& item : rank[name]) to->push_back(item);
    }
  }
  return all;
}

std::string index_text(const Json& weights) {
  Json weight_map = Json::object();
  int64_t total_bytes = 0;
  for (const Json& weight : weights) {
    const std::string name = weight["tensor"];
    ENSURE(!weight_map.contains(name), "two weights are called ", name, " in the files");
    weight_map[name] = weight["file"];
    total_bytes += weight["count"].get<int64_t>() * 4;
  }
  return Json({{"metadata", {{"total_size", total_bytes}}}, {"weight_map", weight_map}}).dump(1) + "\n";
}

// The sum of the weights' hashes is that of the model, see hash_weights().
std::string hash_of_all(const Json& weights) {
  Hash128 total;
  for (const Json& weight : weights) total += hash_of_hex(weight["xxh3"]);
  return hex(total);
}

// What only the first rank writes.
void write_manifest(const Directory& directory, const SaveRequest& request, Written& written) {
  write_text(directory, "model.safetensors.index.json", index_text(written.weights), &written.files);
  for (const auto& [name, text] : request.extra_files) write_text(directory, name, text, &written.files);
  TrainingState state = request.state;
  state.weights_hash = hash_of_all(written.weights);
  write_text(directory, "state.json", state_text(state), &written.files);
  const Json manifest = {{"version", 1},
                         {"step", request.state.step},
                         {"run", request.state.run},
                         {"state_classes", state_classes()},
                         {"files", written.files},
                         {"weights", written.weights},
                         {"moments", written.moments}};
  const std::string text = manifest.dump(1) + "\n";
  write_text(directory, "manifest.json", text, nullptr);
  const Json commit = {{"magic", "switchyard checkpoint"},
                       {"manifest_bytes", text.size()},
                       {"manifest_sha256", to_hex(sha256(text.data(), static_cast<int64_t>(text.size())))}};
  write_text(directory, "COMMIT", commit.dump(), nullptr);
  directory.sync();
}

// A rename that cannot be made durable is taken back: what is not whole for certain keeps no name.
void give_name(const Directory& parent, const std::string& temporary, const std::string& name) {
  parent.rename(temporary, name);
  try {
    parent.sync();
  } catch (const Error&) {
    parent.rename(name, temporary);
    throw;
  }
}

// Saves that were interrupted; only one is under way at a time.
void remove_leftovers(const Directory& parent) {
  for (const std::string& name : parent.names()) {
    if (name.starts_with(".tmp-")) parent.remove_directory(name);
  }
}

}  // namespace

SavedCheckpoint write_checkpoint(const std::string& directory, const Snapshot& snapshot, const SaveRequest& request,
                                 const std::map<std::string, std::string>& previous, int64_t attempt,
                                 comm::Group& world) {
  Storage& storage = *request.storage;
  const std::string name = checkpoint_name(request.state.step);
  const std::string temporary = str(".tmp-", name.substr(name.find('-') + 1), "-", request.state.run, "-", attempt);
  const bool leads = world.rank() == 0;
  SavedCheckpoint saved{.path = directory + "/" + name, .hashes = {}, .warning = ""};
  together(world, kNotSaved, [&] {
    if (!leads) return;
    const Directory parent = Directory::open_or_make(directory, storage);
    const std::vector<std::string> names = parent.names();
    if (std::find(names.begin(), names.end(), name) != names.end()) {
      throw Error(ExitCode::checkpoint, str(saved.path, " exists already and is never overwritten"));
    }
    remove_leftovers(parent);
    parent.make(temporary);
  });
  try {
    Written written;
    together(world, kNotSaved, [&] {
      const Directory inside = Directory::open(directory, storage).open_inner(temporary);
      write_shard(inside, snapshot.model_file(), snapshot.weights(), request, written.weights, written.files);
      write_shard(inside, snapshot.optimizer_file(), snapshot.moments(), request, written.moments, written.files);
    });
    written = gather(world, written);
    together(world, kNotSaved, [&] {
      if (!leads) return;
      check_written(written.weights, written.moments, request.weights, request.elements, previous);
      const Directory parent = Directory::open(directory, storage);
      write_manifest(parent.open_inner(temporary), request, written);
      give_name(parent, temporary, name);
    });
    for (const Json& weight : written.weights) saved.hashes[weight["name"]] = weight["xxh3"];
  } catch (const Error&) {
    try {  // its space may be what the next attempt needs
      if (leads) Directory::open(directory, storage).remove_directory(temporary);
    } catch (const Error&) {
    }
    throw;
  }
  try {
    if (leads) remove_checkpoints(directory, expendable_checkpoints(directory, request.keep_last, storage), storage);
  } catch (const Error& error) {
    saved.warning = str("an older checkpoint could not be removed: ", error.what());
  }
  return saved;
}

std::string save_checkpoint(const std::string& directory, const SaveRequest& request, comm::ParallelGroups& groups) {
  Snapshot snapshot(*request.store, request.moments, groups);
  snapshot.take();
  return write_checkpoint(directory, snapshot, request, {}, 0, *groups.world).path;
}

}  // namespace engine::checkpoint
