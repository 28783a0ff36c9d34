#include "engine/model/block.h"

#include <utility>

#include "engine/ops/residual_add.h"
#include "engine/ops/rms_norm.h"

namespace engine::model {
namespace {

nn::Parameter* add_norm(nn::ParameterStore& store, const std::string& name, int64_t size, int64_t layer) {
  return &store.add({.name = name, .dims = {size}, .init = nn::Init::ones, .decays = false, .layer = layer});
}

}  // namespace

Block::Block(const ModelConfig& config, int64_t layer, nn::ParameterStore& store, std::unique_ptr<nn::Layer> attention,
             std::unique_ptr<nn::Layer> ffn)
    : name_("model.layers." + std::to_string(layer)),
      eps_(static_cast<float>(config.rms_norm_eps)),
      hidden_size_(config.hidden_size),
      input_norm_(add_norm(store, name_ + ".input_layernorm.weight", config.hidden_size, layer)),
      ffn_norm_(add_norm(store, name_ + ".post_attention_layernorm.weight", config.hidden_size, layer)),
      attention_(std::move(attention)),
      ffn_(std::move(ffn)) {}

void Block::plan(ArenaPlan& plan, int64_t max_rows) {
  ArenaPlan::Scope scope(plan, name_);
  ArenaPlan::Frame frame(plan);
  attention_input_ = plan.saved("attention_input_TD", plan.activations(), {max_rows, hidden_size_});
  attention_rstd_ = plan.saved("attention_rstd_T", DType::f32, {max_rows});
  middle_ = plan.saved("middle_TD", plan.activations(), {max_rows, hidden_size_});
  ffn_input_ = plan.saved("ffn_input_TD", plan.activations(), {max_rows, hidden_size_});
  ffn_rstd_ = plan.saved("ffn_rstd_T", DType::f32, {max_rows});
  dinput_ = plan.scratch("dinput_TD", plan.activations(), {max_rows, hidden_size_});
  attention_->plan(plan, max_rows);
  ffn_->plan(plan, max_rows);
}

void Block::forward(const nn::Pass& pass, ConstTensor x_TD, Tensor y_TD) {
  const Arena& arena = *pass.arena;
  const int64_t T = pass.num_rows();
  Tensor attention_input_TD = arena.view(attention_input_, T), ffn_input_TD = arena.view(ffn_input_, T);
  Tensor middle_TD = arena.view(middle_, T);
  {
    Profiler::Scope time(*pass.profiler, "attention forward");
    ops::rms_norm_forward({.y_TD = attention_input_TD,
                           .rstd_T = arena.view(attention_rstd_, T),
                           .x_TD = x_TD,
                           .weight_D = input_norm_->weight,
                           .eps = eps_});
    attention_->forward(pass, attention_input_TD, middle_TD);
    ops::residual_add({.x_TD = middle_TD, .y_TD = x_TD});
  }
  Profiler::Scope time(*pass.profiler, "ffn forward");
  ops::rms_norm_forward({.y_TD = ffn_input_TD,
                         .rstd_T = arena.view(ffn_rstd_, T),
                         .x_TD = middle_TD,
                         .weight_D = ffn_norm_->weight,
                         .eps = eps_});
  ffn_->forward(pass, ffn_input_TD, y_TD);
  ops::residual_add({.x_TD = y_TD, .y_TD = middle_TD});
}

void Block::backward(const nn::Pass& pass, ConstTensor x_TD, Tensor dresidual_TD) {
  const Arena& arena = *pass.arena;
  const int64_t T = pass.num_rows();
  Tensor dinput_TD = arena.view(dinput_, T);
  {
    Profiler::Scope time(*pass.profiler, "ffn backward");
    ffn_->backward(pass, arena.view(ffn_input_, T), dresidual_TD, dinput_TD);
    ops::rms_norm_backward({.dx_TD = dresidual_TD,
                            .dweight_D = ffn_norm_->gradient,
                            .dy_TD = dinput_TD,
                            .x_TD = arena.view(middle_, T),
                            .weight_D = ffn_norm_->weight,
                            .rstd_T = arena.view(ffn_rstd_, T),
                            .granules = pass.granules});
  }
  Profiler::Scope time(*pass.profiler, "attention backward");
  attention_->backward(pass, arena.view(attention_input_, T), dresidual_TD, dinput_TD);
  ops::rms_norm_backward({.dx_TD = dresidual_TD,
                          .dweight_D = input_norm_->gradient,
                          .dy_TD = dinput_TD,
                          .x_TD = x_TD,
                          .weight_D = input_norm_->weight,
                          .rstd_T = arena.view(attention_rstd_, T),
                          .granules = pass.granules});
}

}  // namespace engine::model
