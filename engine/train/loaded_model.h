// A model from a checkpoint, for evaluation and generation on one rank.
#pragma once

#include <memory>
#include <string>

#include "comm/parallel_groups.h"
#include "engine/checkpoint/checkpoint.h"
#include "engine/config/config.h"
#include "engine/model/model.h"

namespace engine::train {

// The checkpoint meant by a run directory (its newest whole one) or by the path of a checkpoint itself.
// Throws Error(checkpoint) naming what is wrong.
std::string resolve_checkpoint(const std::string& run_or_checkpoint);

class LoadedModel {
 public:
  explicit LoadedModel(const std::string& run_or_checkpoint);
  const std::string& path() const { return path_; }
  const Config& config() const { return config_; }
  const checkpoint::TrainingState& state() const { return reader_.state(); }
  model::Model& model() { return model_; }
  comm::Group& world() { return *groups_.world; }

 private:
  std::string path_;
  checkpoint::Reader reader_;
  Config config_;
  comm::ParallelGroups groups_;
  nn::ParameterStore store_;
  model::Model model_;
};

// Names of the state arrays of MoE layers in a checkpoint, and their exchange with a model.
void put_balance_state(model::Model& model, checkpoint::TrainingState& state);
void take_balance_state(const checkpoint::TrainingState& state, model::Model& model);

}  // namespace engine::train
