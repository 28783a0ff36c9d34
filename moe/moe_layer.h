// MoeLayer: router, dispatch to experts, combine, and the shared expert.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "comm/group.h"
#include "engine/config/config.h"
#include "engine/core/mirror.h"
#include "engine/nn/dense_ffn.h"
#include "engine/nn/layer.h"
#include "engine/nn/linear.h"
#include "moe/aux_loss.h"
#include "moe/capacity.h"
#include "moe/expert_bias.h"
#include "moe/expert_placement.h"
#include "moe/experts.h"
#include "moe/jitter.h"
#include "moe/load_statistics.h"
#include "moe/router.h"
#include "moe/routing_observer.h"
#include "moe/routing_sums.h"
#include "moe/token_dispatcher.h"

namespace moe {

// What the MoE layers of one model share.
struct MoeShared {
  AuxLossPool pool;
  ExpertWorkspace workspace;
  uint64_t seed = 0;
  int64_t granules_per_step = 1;
  double recv_headroom = 1;
  ExpertPlacement placement{};
  int64_t overlap_chunks = 1;
  int64_t recv_memory = 0;                  // bytes for rows at experts, all layers together; 0: not limited
  std::vector<int64_t> recv_bytes_layer{};  // of each MoE layer
  size_t num_layers = 0;                    // MoE layers made so far
  RoutingObserver* observer = nullptr;
};

class MoeLayer : public engine::nn::Layer {
 public:
  // Registers mlp.gate.weight [E, D], this rank's experts, and mlp.shared_experts.* / mlp.shared_expert_gate.weight
  // where the config has them.
  MoeLayer(const engine::ModelConfig& config, int64_t layer, engine::nn::ParameterStore& store, comm::Group& ep,
           MoeShared& shared);

  void plan(engine::ArenaPlan& plan, int64_t max_rows) override;
  void forward(const engine::nn::Pass& pass, ConstTensor x_TD, Tensor y_TD) override;
  void backward(const engine::nn::Pass& pass, ConstTensor x_TD, ConstTensor dy_TD, Tensor dx_TD) override;

  // Of the training passes since clear().
  LoadStatistics& statistics() { return statistics_; }
  // The balance loss of granule g before its coefficient, once the granule is complete; for the scope "sequence"
  // the sum over its sequences.
  double aux_loss(int64_t granule);
  // At the end of a step, from the counts of all ranks: moves the expert bias and keeps the counts for the scope
  // "global".
  void finish_step(std::span<const int64_t> tokens_per_expert);

  // State beside the weights, part of a checkpoint.
  std::optional<ExpertBias>& expert_bias() { return expert_bias_; }
  std::vector<int64_t>& previous_counts() { return previous_counts_; }
  int64_t layer() const { return layer_; }
  int64_t experts_used() const;                                                 // of this rank, in the last pass
  int64_t bytes_sent() const { return dispatcher_.bytes_sent(); }               // to other ranks, ever
  int64_t row_bytes() const { return dispatcher_.bytes() + experts_.bytes(); }  // of rows sent and received
  int64_t growths() const { return dispatcher_.growths() + experts_.growths(); }
  // How long this rank has waited for others in this layer's exchanges so far.
  double waited_seconds() const { return waited_seconds_; }

 private:
  class WaitClock;
  void limit_room();
  Jitter jitter_of(const engine::nn::Pass& pass, Tensor x_TD) const;
  // Whether the router reads an f32 copy of the input instead of the input.
  bool routes_a_copy() const { return config_.jitter > 0 || storage_ != engine::DType::f32; }
  Tensor drop(const engine::nn::Pass& pass, ConstTensor topk_idx_TK, ConstTensor topk_weights_TK);
  Tensor start_experts(const engine::nn::Pass& pass, ConstTensor x_TD, ConstTensor topk_idx_TK);
  void start_recording(const engine::nn::Pass& pass);
  // What was placed in the dispatcher's readback has come to the host.
  void finish_recording(const engine::nn::Pass& pass);
  RoutingSums start_sums(const engine::nn::Pass& pass, const std::vector<int64_t>& offsets, std::vector<double>& sums);
  void finish_sums(const RoutingSums& routing);
  void record_granules(const engine::nn::Pass& pass);
  void record_sequences(const engine::nn::Pass& pass);
  void balance_gradient(const engine::nn::Pass& pass);
  Tensor shared_expert_forward(const engine::nn::Pass& pass, ConstTensor x_TD);
  Tensor shared_expert_backward(const engine::nn::Pass& pass, ConstTensor x_TD, ConstTensor dy_TD);

  engine::RouterConfig config_;
  RouterOptions options_;
  int64_t layer_, num_experts_, slots_, hidden_size_;
  engine::DType storage_;  // of activations; the router computes in f32
  MoeShared& shared_;
  size_t index_;  // among the MoE layers
  comm::Group& ep_;
  double waited_seconds_ = 0;
  engine::nn::Linear gate_;
  TokenDispatcher dispatcher_;
  Experts experts_;
  std::unique_ptr<engine::nn::DenseFfn> shared_expert_;
  std::unique_ptr<engine::nn::Linear> shared_gate_;
  std::optional<ExpertBias> expert_bias_;
  LoadStatistics statistics_;
  std::vector<int64_t> previous_counts_;  // [E] of the whole previous step, empty at first

  engine::Slot routed_input_, logits_, scores_, topk_idx_, kept_idx_, topk_weights_, lse_, entropy_, dweights_,
      dlogits_, drouted_;
  engine::Slot shared_logit_, shared_out_, dshared_, dshared_logit_;
  // ranges of rows that balance is measured on in this pass
  std::vector<int64_t> range_offsets_, range_counts_, sequence_counts_;
  std::vector<int64_t> granule_offsets_, capacities_;
  // of this pass, by granule and by range: under way from start_recording() to finish_recording()
  RoutingSums granule_routing_, range_routing_;
  std::vector<double> granule_sums_, range_sums_;
  const int64_t* dropped_ = nullptr;       // [granules] placed in the readback
  const int32_t* chosen_there_ = nullptr;  // [T, K] for the observer, placed in the readback
  std::vector<float> dprobabilities_, z_factors_;
  engine::Mirror<int64_t> offsets_there_;
  engine::Mirror<float> dprobabilities_there_, z_factors_there_, bias_there_;
};

}  // namespace moe
