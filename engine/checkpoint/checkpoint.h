// A checkpoint: one directory per step, whole or absent.
//
//   step-00000300/
//     model-0000i-of-0000n.safetensors      weights under the names of their Hugging Face family, experts numbered
//                                           globally
//     model.safetensors.index.json          which file holds which weight, as transformers reads it
//     config.json, generation_config.json   where a Hugging Face family expresses the model
//     optimizer-0000i-of-0000n.safetensors  moments as (weight, range): exp_avg.NAME@BEGIN, exp_avg_sq.NAME@BEGIN
//     state.json                            what TrainingState holds
//     manifest.json                         step and run; every file with size and SHA-256; every tensor with the shape
//                                           of the whole, its range and XXH3-128; the kinds of state
//     COMMIT                                length and SHA-256 of the manifest; written last
//
// It is written under a temporary name, made durable, and renamed: a directory called step-* is complete, and a
// reader checks that it is.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "comm/parallel_groups.h"
#include "engine/checkpoint/manifest.h"
#include "engine/checkpoint/safetensors.h"
#include "engine/checkpoint/snapshot.h"
#include "engine/checkpoint/storage.h"
#include "engine/nn/parameters.h"

namespace engine::checkpoint {

// A checkpoint that a run went on from, with another run, config or text since then, or without some samples.
struct Ancestor {
  std::string run, digest, config_hash, text_hash;
  int64_t step = 0;
  std::vector<std::string> changes;  // of what makes a training's course, for people
};

// What is neither a weight nor a moment; the same on every rank.
struct TrainingState {
  int64_t step = 0;
  int64_t tokens = 0;
  int64_t next_sample = 0;  // the data cursor
  int64_t total_steps = 0;  // that the schedule spans; 0: no end
  int64_t seed = 0;         // the key of all random numbers, which are functions of it and of what they are for
  std::string digest;
  std::string weights_hash;  // filled in when it is saved
  std::string run;           // that saved it: a name of its own for each run directory
  std::string config_hash;   // of its config, every key
  std::string text_hash;     // of the text it is trained on; "": not known
  std::vector<Ancestor> ancestors;
  std::string config;                                 // canonical JSON of the run's config
  std::string config_directory;                       // that its relative paths start from
  std::map<std::string, std::vector<double>> arrays;  // gradient bounds, expert biases, ...: come back exactly
};

struct SaveRequest {
  const nn::ParameterStore* store = nullptr;
  std::vector<MomentSlice> moments{};
  TrainingState state{};
  std::map<std::string, std::string> extra_files{};  // config.json, generation_config.json
  // What a weight is called in the files; by default as in the store. The manifest knows both names.
  std::function<std::string(const std::string&)> tensor_name = [](const std::string& name) { return name; };
  int64_t keep_last = 2;
  // Of the whole model, to compare with what was written: weights with their elements, and how many the config makes.
  std::map<std::string, int64_t> weights{};
  int64_t elements = 0;
  Storage* storage = &system_storage();
};

// Collective over groups.world. Returns the checkpoint's path once it is durable; then removes older ones beyond
// keep_last that have no tag. A failure on any rank throws on every rank and leaves older checkpoints as they were.
std::string save_checkpoint(const std::string& directory, const SaveRequest& request, comm::ParallelGroups& groups);

// What the checkpoint of a step is called: step-00000300.
std::string checkpoint_name(int64_t step);

// state.json, and the kinds of state that a manifest lists.
std::string state_text(const TrainingState& state);
std::vector<std::string> state_classes();

// Names of step-* directories in `directory`, newest first; empty if there is none.
std::vector<std::string> list_checkpoints(const std::string& directory, Storage& storage = system_storage());

// Those that retention gives up: older than the newest keep_last, and without a tag.
std::vector<std::string> expendable_checkpoints(const std::string& directory, int64_t keep_last,
                                                Storage& storage = system_storage());
// Removes checkpoints, each renamed first so that none is ever there in part.
void remove_checkpoints(const std::string& directory, const std::vector<std::string>& names,
                        Storage& storage = system_storage());

// Renames checkpoints of later steps to abandoned-step-*, which no run goes on from and nothing removes; tags follow.
// Returns their new names.
std::vector<std::string> set_aside_after(const std::string& directory, int64_t step);

// Everything that is wrong with a checkpoint, one sentence each; empty if it is whole: every file has its hash, every
// tensor of the manifest is in its file and in the index, every expert is there once, and the number of elements is
// that of the config. With a group it is collective, and each rank hashes a share of the files. Throws Error(stopped),
// on every rank, if a stop is requested meanwhile.
std::vector<std::string> verify_checkpoint(const std::string& path, Storage& storage = system_storage());
std::vector<std::string> verify_checkpoint(const std::string& path, comm::Group& world);

// The newest whole checkpoint of a directory, "" if there is none. What is wrong with newer ones is reported. With a
// group it is collective.
std::string newest_whole_checkpoint(const std::string& directory, std::vector<std::string>& problems,
                                    Storage& storage = system_storage());
std::string newest_whole_checkpoint(const std::string& directory, std::vector<std::string>& problems,
                                    comm::Group& world);

// A checkpoint opened for reading; its manifest was checked against COMMIT, file sizes against the manifest.
class Reader {
 public:
  explicit Reader(const std::string& path, Storage& storage = system_storage());
  ~Reader();
  const std::string& path() const;
  Storage& storage() const;
  const TrainingState& state() const;
  const Manifest& manifest() const;
  const SafetensorsFile& tensors(const std::string& file) const;
  // Every weight of the store, each found exactly once with its shape and hash, and finite; otherwise
  // Error(checkpoint) with the list of what is not. Reads those weights and nothing else.
  void load_weights(nn::ParameterStore& store) const;
  // Any ranges, however they were cut when they were saved.
  void load_moments(std::vector<MomentSlice>& slices) const;

 private:
  struct Contents;
  std::unique_ptr<Contents> contents_;
};

}  // namespace engine::checkpoint
