// Trainer: the mathematics of a training step on this rank. It reads and writes no files.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "comm/parallel_groups.h"
#include "engine/config/config.h"
#include "engine/model/model.h"
#include "engine/nn/parameters.h"
#include "engine/train/digest.h"
#include "engine/train/gradient_grid.h"
#include "engine/train/optimizer.h"
#include "engine/train/pass_graphs.h"
#include "engine/train/pass_schedule.h"
#include "engine/train/robust_z.h"
#include "engine/train/sample_order.h"
#include "engine/train/spike_policy.h"
#include "engine/train/tensor_table.h"

namespace engine::train {

// Seconds of a step on one rank's main thread. comm: rows to experts and back, gradients to their shards, and the
// waiting for other ranks in both; forward and backward are without it. The loss with its gradient is part of backward.
struct StepPhases {
  double data = 0, forward = 0, backward = 0, comm = 0, optimizer = 0;
};

// The same on every rank, but for the times.
struct StepResult {
  int64_t step = 0;                           // from 1
  double loss = 0;                            // cross-entropy alone, nats per counted token
  double aux_loss = 0;                        // before the coefficient, mean over MoE layers and granules
  double z_loss = 0;                          // likewise
  double grad_norm = 0;                       // before clipping
  std::optional<double> loss_z, grad_norm_z;  // how unusual they are beside the last steps
  double lr = 0;
  double seconds = 0;
  StepPhases phases;
  int64_t recomputed = 0;  // 1 if the gradient grid had to be widened
  SpikeAction spike = SpikeAction::none;
};

class Trainer {
 public:
  // Builds the model of this rank on the device and gives it memory; weights are initialised from the seed.
  Trainer(const Config& config, comm::ParallelGroups& groups, moe::ExpertPlacement placement = {},
          Device device = Device::cpu);

  // One optimizer step on the samples at places [first_sample, first_sample + sequences per step) of the order.
  // Throws Error(numerical) before any weight is touched when a gradient is not finite. After a spike that is to be
  // undone the trainer is as before, but for the histories; it has to be restored.
  StepResult train_step(int64_t first_sample, const SampleReader& read);

  // Continues after `step` steps; weights, moments and arrays were loaded.
  void resume(int64_t step, const std::string& digest);
  // To be called once after initialisation or after weights were loaded from elsewhere.
  void begin_digest();

  int64_t step() const { return step_; }
  std::string digest() const { return digest_.hex(); }
  // Makes the digest that of a run in which this happened.
  void add_to_digest(const std::string& event) { digest_.add_event(event); }
  int64_t total_steps() const { return total_steps_; }
  int64_t max_rows() const { return schedule_.max_rows(); }  // that activations were planned for
  const Config& config() const { return config_; }
  model::Model& model() { return model_; }
  nn::ParameterStore& store() { return store_; }
  Optimizer& optimizer() { return optimizer_; }
  GradientGrid& grid() { return grid_; }
  PassGraphs& pass_graphs() { return pass_graphs_; }
  RobustZ& loss_history() { return loss_history_; }
  RobustZ& norm_history() { return norm_history_; }
  SpikePolicy& spikes() { return spikes_; }
  SampleOrder& order() { return order_; }
  const TensorTable& table() const { return table_; }
  comm::ParallelGroups& groups() { return groups_; }

  // Of the last step: tokens per expert as chosen, [MoE layers][experts], and dropped pairs by layer.
  const std::vector<int64_t>& tokens_per_expert() const { return tokens_per_expert_; }
  const std::vector<int64_t>& dropped() const { return dropped_; }
  // Of the last step by layer, before the coefficient.
  const std::vector<double>& aux_losses() const { return aux_losses_; }
  const std::vector<double>& z_losses() const { return z_losses_; }

 private:
  void compute_gradients(int64_t first_sample, const SampleReader& read, StepPhases& phases);
  PassGraphs::Key pass_key(const Tensor& losses_T);
  void add_losses();
  void update(const StepResult& result);
  void collect_losses(StepResult& result);
  void collect_balance(StepResult& result);
  void finish_balance();
  void sum_statistics();

  Config config_;
  comm::ParallelGroups& groups_;
  nn::ParameterStore store_;
  model::Model model_;
  TensorTable table_;
  Optimizer optimizer_;
  GradientGrid grid_;
  PassSchedule schedule_;
  PassGraphs pass_graphs_;
  RunDigest digest_;
  RobustZ loss_history_, norm_history_;
  SpikePolicy spikes_;
  SampleOrder order_;
  int64_t step_ = 0;
  int64_t total_steps_ = 0;
  struct PassLosses {
    const float* placed;
    int64_t rows, granules, first_granule;
  };
  std::vector<PassLosses> pass_losses_;  // of the step
  std::vector<double> granule_losses_;   // chain over the granule's tokens in order
  std::vector<int64_t> tokens_per_expert_, dropped_;
  std::vector<double> aux_losses_, z_losses_;
  std::vector<int64_t> counts_of_layers_;  // of all MoE layers, while ranks add them up
  std::vector<double> sums_of_layers_;
  std::function<void(int64_t)> layer_done_;  // in the last pass of a step
};

}  // namespace engine::train
