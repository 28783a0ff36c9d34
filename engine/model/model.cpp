#include "engine/model/model.h"

#include <cmath>
#include <string>
#include <utility>

#include "engine/core/transfer.h"
#include "engine/nn/dense_ffn.h"
#include "engine/ops/embedding.h"
#include "engine/ops/rms_norm.h"

namespace engine::model {

Model::Model(const Config& config, nn::ParameterStore& store, comm::Group& ep, moe::ExpertPlacement placement)
    : config_(config.model),
      device_(store.device()),
      storage_(store.activations()),
      tokens_there_(device_),
      targets_there_(device_),
      positions_there_(device_),
      document_starts_there_(device_),
      counted_there_(device_),
      losses_there_(device_),
      logits_there_(device_) {
  const ModelConfig& model = config_;
  embedding_ = &store.add({.name = "model.embed_tokens.weight",
                           .dims = {model.vocabulary(), model.hidden_size},
                           .deviation = model.initializer_range});
  moe_shared_ = std::make_unique<moe::MoeShared>(
      moe::MoeShared{.workspace = moe::ExpertWorkspace(device_),
                     .recorded = Readback(device_),
                     .pooled_sums = GrowingBuffer(device_),
                     .seed = static_cast<uint64_t>(config.seed),
                     .granules_per_step = config.train.granules,
                     .granule_rows = config.sequences_per_granule() * config.train.seq_len,
                     .recv_headroom = config.parallel.recv_headroom,
                     .placement = std::move(placement),
                     .overlap_chunks = config.parallel.overlap_chunks});
  if (config.parallel.recv_memory) moe_shared_->recv_memory = config.parallel.recv_memory->value;
  auto tables = std::make_shared<const attention::RopeTables>(model, device_);
  const double residual = model.initializer_range / std::sqrt(2.0 * static_cast<double>(model.num_hidden_layers));
  blocks_.reserve(static_cast<size_t>(model.num_hidden_layers));
  for (int64_t layer = 0; layer < model.num_hidden_layers; ++layer) {
    auto attention = std::make_unique<attention::AttentionLayer>(model, layer, store, tables);
    attention_layers_.push_back(attention.get());
    std::unique_ptr<nn::Layer> ffn;
    if (model.is_moe_layer(layer)) {
      auto experts = std::make_unique<moe::MoeLayer>(model, layer, store, ep, *moe_shared_);
      moe_layers_.push_back(experts.get());
      ffn = std::move(experts);
    } else {
      ffn = std::make_unique<nn::DenseFfn>(store, "model.layers." + std::to_string(layer) + ".mlp", layer,
                                           model.hidden_size, model.dense_intermediate(),
                                           nn::FfnInit{model.initializer_range, residual});
    }
    blocks_.emplace_back(model, layer, store, std::move(attention), std::move(ffn));
  }
  norm_ =
      &store.add({.name = "model.norm.weight", .dims = {model.hidden_size}, .init = nn::Init::ones, .decays = false});
  head_ = std::make_unique<nn::LmHead>(store, model.vocabulary(), model.hidden_size, model.initializer_range,
                                       model.tie_word_embeddings ? embedding_ : nullptr);
  if (model.tie_word_embeddings) store.add_tied_gradient(*embedding_);
}

void Model::begin_step() {
  for (moe::MoeLayer* layer : moe_layers_) layer->begin_step();
  moe_shared_->choices.clear();
  if (moe_shared_->observer != nullptr) moe_shared_->observer->restart();
}

float* Model::place_losses(int64_t count) {
  return moe_shared_->recorded.place<float>(count);
}

void Model::end_step() {
  Readback& recorded = moe_shared_->recorded;
  recorded.fetch();
  for (moe::MoeLayer* layer : moe_layers_) layer->take_recorded();
  for (const auto& [layer, pass, choices_TK] : moe_shared_->choices) {
    const int32_t* chosen = recorded.host(choices_TK.i32());
    moe_shared_->observer->routed(layer, pass,
                                  ConstTensor(chosen, DType::i32, {choices_TK.rows(), choices_TK.columns()}));
  }
}

const float* Model::losses(const float* placed) const {
  return moe_shared_->recorded.host(placed);
}

double Model::aux_loss(size_t layer, int64_t granule) const {
  if (config_.router.aux_loss_kind == "hf")
    return moe::pooled_aux_loss(moe_layers_, granule, config_.num_experts_per_tok);
  return moe_layers_[layer]->aux_loss(granule);
}

void Model::plan(int64_t max_rows) {
  plan_ = ArenaPlan(storage_);
  residuals_.clear();
  const int64_t D = config_.hidden_size;
  for (size_t i = 0; i <= blocks_.size(); ++i) {
    residuals_.push_back(plan_.saved("residual_TD." + std::to_string(i), plan_.activations(), {max_rows, D}));
  }
  hidden_ = plan_.saved("hidden_TD", plan_.activations(), {max_rows, D});
  hidden_rstd_ = plan_.saved("hidden_rstd_T", DType::f32, {max_rows});
  dhidden_ = plan_.saved("dhidden_TD", plan_.activations(), {max_rows, D});
  dresidual_ = plan_.saved("dresidual_TD", plan_.activations(), {max_rows, D});
  for (Block& block : blocks_) block.plan(plan_, max_rows);
  ArenaPlan::Frame frame(plan_);
  head_->plan(plan_, max_rows);
  arena_ = Arena(plan_, device_);
}

int64_t Model::activation_bytes() const {
  return arena_.bytes() + row_bytes();
}

int64_t Model::row_bytes() const {
  int64_t bytes = moe_shared_->workspace.bytes();
  for (const moe::MoeLayer* layer : moe_layers_) bytes += layer->row_bytes();
  return bytes;
}

ConstTensor Model::on_device(Mirror<int32_t>& mirror, ConstTensor numbers_T) const {
  if (numbers_T.data == nullptr) return {};
  const int64_t count = numbers_T.num_elements();
  return ConstTensor(mirror.of(numbers_T.i32(), count), DType::i32, {count}, device_);
}

void Model::begin_pass(nn::Pass& pass, ConstTensor tokens_T, ConstTensor targets_T) {
  Profiler::Scope time(profiler_, "embedding");
  pass.arena = &arena_;
  pass.profiler = &profiler_;
  const int64_t T = pass.num_rows();
  pass.positions = positions_there_.of(pass.positions, T);
  pass.document_starts = document_starts_there_.of(pass.document_starts, T);
  pass.counted = counted_there_.of(pass.counted, T);
  tokens_T_ = on_device(tokens_there_, tokens_T);
  targets_T_ = on_device(targets_there_, targets_T);
  for (moe::MoeLayer* layer : moe_layers_) layer->begin_pass(pass);
}

void Model::forward(const nn::Pass& pass) {
  const int64_t T = pass.num_rows();
  {
    Profiler::Scope time(profiler_, "embedding");
    ops::embedding_forward(
        {.y_TD = arena_.view(residuals_[0], T), .tokens_T = tokens_T_, .weight_VD = embedding_->weight});
  }
  for (size_t i = 0; i < blocks_.size(); ++i) {
    activity().enter_layer(static_cast<int64_t>(i));
    blocks_[i].forward(pass, arena_.view(residuals_[i], T), arena_.view(residuals_[i + 1], T));
  }
  activity().enter_layer(-1);
  Profiler::Scope time(profiler_, "head");
  ops::rms_norm_forward({.y_TD = arena_.view(hidden_, T),
                         .rstd_T = arena_.view(hidden_rstd_, T),
                         .x_TD = arena_.view(residuals_.back(), T),
                         .weight_D = norm_->weight,
                         .eps = static_cast<float>(config_.rms_norm_eps)});
}

void Model::loss(const nn::Pass& pass, Tensor losses_T) {
  Profiler::Scope time(profiler_, "head");
  const int64_t T = pass.num_rows();
  Tensor dhidden_TD = arena_.view(dhidden_, T), dresidual_TD = arena_.view(dresidual_, T);
  Tensor losses_there_T = losses_T;
  if (losses_T.device != device_) {
    losses_there_T = losses_there_.view(DType::f32, T, 1);
    losses_there_T = Tensor(losses_there_T.data, DType::f32, {T}, device_);
  }
  head_->loss(pass, arena_.view(hidden_, T), targets_T_, losses_there_T, dhidden_TD);
  if (losses_T.device != device_) copy(losses_T, losses_there_T);
  if (!pass.training) return;
  ops::rms_norm_backward({.dx_TD = dresidual_TD,
                          .dweight_D = norm_->gradient,
                          .dy_TD = dhidden_TD,
                          .x_TD = arena_.view(residuals_.back(), T),
                          .weight_D = norm_->weight,
                          .rstd_T = arena_.view(hidden_rstd_, T),
                          .granules = pass.granules,
                          .assign = true});
}

void Model::backward(const nn::Pass& pass, const std::function<void(int64_t)>& layer_done) {
  const int64_t T = pass.num_rows();
  Tensor dresidual_TD = arena_.view(dresidual_, T);
  for (size_t i = blocks_.size(); i-- > 0;) {
    activity().enter_layer(static_cast<int64_t>(i));
    blocks_[i].backward(pass, arena_.view(residuals_[i], T), dresidual_TD);
    if (layer_done) layer_done(static_cast<int64_t>(i));
  }
  activity().enter_layer(-1);
  Profiler::Scope time(profiler_, "embedding");
  ops::embedding_backward({.dweight_VD = config_.tie_word_embeddings ? embedding_->tied : embedding_->gradient,
                           .dy_TD = dresidual_TD,
                           .tokens_T = tokens_T_,
                           .granules = pass.granules});
}

void Model::logits(const nn::Pass& pass, int64_t begin, Tensor logits_TV) {
  const Tensor hidden_TD = arena_.view(hidden_, pass.num_rows()).slice_rows(begin, logits_TV.rows());
  if (device_ == Device::cpu) return head_->logits(hidden_TD, logits_TV);
  const Tensor logits_there_TV = logits_there_.view(DType::f32, logits_TV.rows(), logits_TV.columns());
  head_->logits(hidden_TD, logits_there_TV);
  copy(logits_TV, logits_there_TV);
}

void Model::reserve_keys(int64_t num_sequences, int64_t capacity) {
  for (attention::AttentionLayer* layer : attention_layers_) layer->reserve_keys(num_sequences, capacity);
}

}  // namespace engine::model
