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
#include "engine/core/growing_buffer.h"
#include "engine/core/mirror.h"
#include "engine/core/readback.h"
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
  ExpertWorkspace workspace{};
  engine::Readback recorded{engine::Device::cpu};  // what a step leaves for the host
  engine::GrowingBuffer pooled_sums{};  // [G, routing_sums_width(E)] of all layers, for the loss of kind "hf"
  uint64_t seed = 0;
  int64_t granules_per_step = 1;
  int64_t granule_rows = 0;  // of each whole granule; in training
  double recv_headroom = 1;
  ExpertPlacement placement{};
  int64_t overlap_chunks = 1;
  int64_t recv_memory = 0;                  // bytes for rows at experts, all layers together; 0: not limited
  std::vector<int64_t> recv_bytes_layer{};  // of each MoE layer
  size_t num_layers = 0;                    // MoE layers made so far
  RoutingObserver* observer = nullptr;
  // Choices that are among what is recorded, to be shown when that has come to the host.
  struct Choices {
    size_t layer;
    engine::nn::Pass pass;
    ConstTensor topk_idx_TK;
  };
  std::vector<Choices> choices{};
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

  // Before the passes of a training step: nothing is recorded yet. Its sums lie in shared.recorded.
  void begin_step();
  // Before each pass: what it needs of the host's state goes to the device, and what does not depend on its tokens is
  // recorded. forward() and backward() then queue the same for every pass of the same shape and number in its step,
  // where experts have places and nothing is jittered.
  void begin_pass(const engine::nn::Pass& pass);
  // After the passes, when shared.recorded was fetched.
  void take_recorded();
  // Of the training passes of the last step, after take_recorded().
  LoadStatistics& statistics() { return statistics_; }
  // Of kind "switch": the balance loss of granule g before its coefficient; for the scope "sequence" the sum over its
  // sequences.
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
  bool by_sequence() const { return config_.aux_loss_scope == "sequence"; }
  bool pooled() const { return config_.aux_loss_kind == "hf"; }
  int64_t sums_width() const { return routing_sums_width(num_experts_); }
  // Of the pass's first granule; the others follow.
  double* sums_of(const engine::nn::Pass& pass, double* sums_GW) const;
  void record(const engine::nn::Pass& pass);
  void add_sums(const engine::nn::Pass& pass, const std::vector<int64_t>& offsets, double* sums) const;
  void place_choices(const engine::nn::Pass& pass);
  void record_choices(const engine::nn::Pass& pass);
  void show_choices(const engine::nn::Pass& pass);
  BalanceGradient balance_gradient(const engine::nn::Pass& pass);
  Tensor shared_expert_forward(const engine::nn::Pass& pass, ConstTensor x_TD);
  Tensor shared_expert_backward(const engine::nn::Pass& pass, ConstTensor x_TD, ConstTensor dy_TD);

  engine::RouterConfig config_;
  RouterOptions options_;
  int64_t layer_, num_experts_, slots_, hidden_size_;
  int64_t places_;         // of an expert for each granule where that is fixed (dispatch_plan.h), or 0
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
  // of the step, placed among what is recorded, from begin_step() to take_recorded()
  double* sums_GW_ = nullptr;  // [granules, sums_width()]
  int64_t* dropped_G_ = nullptr;
  // ranges of rows that balance is measured on in this pass, and their sums where they are sequences
  std::vector<int64_t> range_offsets_;
  engine::GrowingBuffer sequence_sums_;
  std::vector<int64_t> granule_offsets_, capacities_;
  int32_t* chosen_there_ = nullptr;  // [T, K] of the pass for the observer, placed in a readback
  std::vector<float> z_factors_;
  std::vector<double> counts_before_;  // [E], of the whole previous step
  const float* bias_E_ = nullptr;      // for this pass
  const double* counts_before_there_E_ = nullptr;
  engine::GrowingBuffer dprobabilities_;
  engine::Mirror<int64_t> offsets_there_;
  engine::Mirror<double> counts_before_there_;
  engine::Mirror<float> z_factors_there_, bias_there_;
};

// The loss of kind "hf" of granule g, from the statistics of all MoE layers of a model.
double pooled_aux_loss(std::span<MoeLayer* const> layers, int64_t granule, int64_t slots);

}  // namespace moe
