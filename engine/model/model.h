// The transformer: embedding, blocks, norm, LM head and loss, assembled in plain code from the config.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "attention/attention_layer.h"
#include "comm/group.h"
#include "engine/config/config.h"
#include "engine/core/growing_buffer.h"
#include "engine/core/mirror.h"
#include "engine/model/block.h"
#include "engine/nn/lm_head.h"
#include "moe/moe_layer.h"

namespace engine::model {

class Model {
 public:
  // Registers every weight in `store`, the experts of this rank of `ep` only. Memory comes with store.commit()
  // and plan().
  Model(const Config& config, nn::ParameterStore& store, comm::Group& ep, moe::ExpertPlacement placement = {});

  // Before the passes of a training step, and after them. What the step leaves for the host comes then, on a GPU with
  // one wait for all of it: what the MoE layers recorded, choices for who observes the routing, and losses.
  void begin_step();
  void end_step();
  // Where loss() may leave the losses of `count` rows until end_step(), on the model's device, and where they are then.
  float* place_losses(int64_t count);
  const float* losses(const float* placed) const;
  // Of granule g of the last step, before its coefficient; of kind "hf" that of all layers together.
  double aux_loss(size_t layer, int64_t granule) const;

  // Plans and allocates activations for passes of at most max_rows rows.
  void plan(int64_t max_rows);
  const ArenaPlan& memory_plan() const { return plan_; }
  int64_t activation_bytes() const;  // rows at the experts included
  int64_t row_bytes() const;         // rows at the experts alone

  // Begins a pass: fills in pass.arena and pass.profiler. Tokens, targets (of passes with a loss) and what the pass
  // points to are in host memory; on a GPU the pass points to copies there afterwards, so it is for one forward.
  void begin_pass(nn::Pass& pass, ConstTensor tokens_T, ConstTensor targets_T = {});
  // The pass's rows through all blocks.
  void forward(const nn::Pass& pass);
  // Cross-entropy of each row, after forward; in training it also starts the backward pass. Losses go to host memory,
  // for which a GPU is waited for, or to the model's device.
  void loss(const nn::Pass& pass, Tensor losses_T);
  // All gradients, after loss(). Calls layer_done as soon as the pass has added to every gradient of a layer.
  void backward(const nn::Pass& pass, const std::function<void(int64_t layer)>& layer_done = {});
  // logits of rows [begin, begin + logits.rows()) of the pass, after forward.
  void logits(const nn::Pass& pass, int64_t begin, Tensor logits_TV);

  // Generation: room for the keys and values of so many sequences.
  void reserve_keys(int64_t num_sequences, int64_t capacity);

  // The MoE layers in order; for statistics, expert biases and balance state.
  const std::vector<moe::MoeLayer*>& moe_layers() const { return moe_layers_; }
  int64_t num_experts() const { return config_.num_experts; }
  // Shown what every MoE layer chooses; null: nobody is.
  void observe_routing(moe::RoutingObserver* observer) { moe_shared_->observer = observer; }
  moe::RoutingObserver* routing_observer() { return moe_shared_->observer; }
  Profiler& profiler() { return profiler_; }

 private:
  ModelConfig config_;
  Device device_;
  DType storage_;  // of activations
  nn::Parameter* embedding_;
  std::vector<Block> blocks_;
  nn::Parameter* norm_;
  std::unique_ptr<nn::LmHead> head_;
  std::vector<attention::AttentionLayer*> attention_layers_;
  std::vector<moe::MoeLayer*> moe_layers_;
  std::unique_ptr<moe::MoeShared> moe_shared_;

  ArenaPlan plan_;
  Arena arena_;
  std::vector<Slot> residuals_;  // input of each block, then of the last norm
  Slot hidden_, hidden_rstd_, dhidden_, dresidual_;
  ConstTensor tokens_T_, targets_T_;  // of the pass, on the device
  Profiler profiler_;

  ConstTensor on_device(Mirror<int32_t>& mirror, ConstTensor numbers_T) const;
  Mirror<int32_t> tokens_there_, targets_there_, positions_there_, document_starts_there_;
  Mirror<uint8_t> counted_there_;
  GrowingBuffer losses_there_, logits_there_;
};

}  // namespace engine::model
