// A model from a checkpoint or a transformers directory, for evaluation, generation and export on one rank.
#pragma once

#include <memory>
#include <string>

#include "comm/parallel_groups.h"
#include "engine/checkpoint/checkpoint.h"
#include "engine/config/config.h"
#include "engine/model/model.h"

namespace engine::train {

// The checkpoint meant by a run directory (its newest whole one), by RUN@TAG, or by the path of a checkpoint itself.
// Throws Error(checkpoint) naming what is wrong.
std::string resolve_checkpoint(const std::string& run_or_checkpoint);

// Whether `path` is a directory as transformers writes it and no checkpoint of ours.
bool is_huggingface_directory(const std::string& path);

class LoadedModel {
 public:
  // A run directory, a checkpoint or a transformers directory. On a GPU activations are stored as the run's precision
  // says. Throws Error(checkpoint).
  explicit LoadedModel(const std::string& path, Device device = Device::cpu);
  const std::string& path() const { return path_; }
  const Config& config() const { return config_; }  // of a transformers directory: its model, without data
  const checkpoint::TrainingState& state() const { return state_; }  // of a transformers directory: step 0
  model::Model& model() { return *model_; }
  nn::ParameterStore& store() { return store_; }
  comm::Group& world() { return *groups_.world; }

 private:
  void load_checkpoint();
  void load_huggingface();
  void build();

  std::string path_;
  checkpoint::TrainingState state_;
  Config config_;
  comm::ParallelGroups groups_;
  Device device_;
  nn::ParameterStore store_;
  std::unique_ptr<model::Model> model_;
};

// Says on stderr that text is read as bytes where the vocabulary is another one than that of bytes.
void note_byte_reading(const ModelConfig& model);

// Names of the state arrays of MoE layers in a checkpoint, and their exchange with a model.
void put_balance_state(model::Model& model, checkpoint::TrainingState& state);
void take_balance_state(const checkpoint::TrainingState& state, model::Model& model);

}  // namespace engine::train
