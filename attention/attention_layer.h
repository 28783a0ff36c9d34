// Self-attention: projections, query/key norm, rotary positions, causal attention, output projection.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "attention/causal_attention.h"
#include "engine/config/config.h"
#include "engine/core/buffer.h"
#include "engine/nn/layer.h"
#include "engine/nn/linear.h"

namespace attention {

using engine::ArenaPlan;
using engine::ConstTensor;
using engine::Slot;
using engine::Tensor;

// Cosines and sines of every position, shared by all layers.
struct RopeTables {
  explicit RopeTables(const engine::ModelConfig& config, engine::Device device = engine::Device::cpu);
  engine::OwnedTensor cos_PC, sin_PC;
};

class AttentionLayer : public engine::nn::Layer {
 public:
  // Registers model.layers.{i}.self_attn.{q,k,v,o}_proj.weight, biases of q, k and v with attention_bias, and
  // q_norm.weight and k_norm.weight where the config has them.
  AttentionLayer(const engine::ModelConfig& config, int64_t layer, engine::nn::ParameterStore& store,
                 std::shared_ptr<const RopeTables> tables);

  void plan(ArenaPlan& plan, int64_t max_rows) override;
  void forward(const engine::nn::Pass& pass, ConstTensor x_TD, Tensor y_TD) override;
  void backward(const engine::nn::Pass& pass, ConstTensor x_TD, ConstTensor dy_TD, Tensor dx_TD) override;

  // Room for the keys and values of num_sequences sequences of at most `capacity` positions (pass.kept).
  void reserve_keys(int64_t num_sequences, int64_t capacity);

 private:
  // RMSNorm of queries or keys, per head or over the whole projection, in place.
  struct QkNorm {
    engine::nn::Parameter* weight;
    int64_t groups;  // norms per row: heads, or 1
    Slot input, rstd;
  };
  void normalize(const engine::nn::Pass& pass, const QkNorm& norm, Tensor x_TD);
  void normalize_backward(const engine::nn::Pass& pass, const QkNorm& norm, Tensor dx_TD);
  void rotate(const engine::nn::Pass& pass, Tensor x_THC, int64_t heads, bool inverse);
  void attend(const engine::nn::Pass& pass, CausalAttentionForward a) const;
  void attend_to_kept(const engine::nn::Pass& pass, ConstTensor q_THC) const;
  void append_keys(const engine::nn::Pass& pass, ConstTensor k_TGC, ConstTensor v_TGC);

  std::string name_;
  int64_t num_heads_, num_kv_heads_, head_dim_;
  float scale_, eps_;
  bool interleave_;
  std::shared_ptr<const RopeTables> tables_;
  engine::Device device_;
  engine::DType storage_;  // of activations
  engine::nn::Linear q_proj_, k_proj_, v_proj_, o_proj_;
  std::optional<QkNorm> q_norm_, k_norm_;
  Slot q_, k_, v_, o_, lse_, dq_, dk_, dv_, do_;
  std::optional<engine::OwnedTensor> kept_keys_, kept_values_;  // [sequences * capacity, G * C]
  int64_t capacity_ = 0;
  std::vector<int64_t> norm_offsets_;
};

}  // namespace attention
