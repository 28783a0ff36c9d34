#include "attention/attention_layer.h"

#include <cmath>
#include <utility>

#include "engine/core/error.h"
#include "engine/core/planning.h"
#include "engine/core/transfer.h"
#include "engine/ops/rms_norm.h"
#include "engine/ops/rope.h"

namespace attention {

using engine::DType;
using engine::ModelConfig;
using engine::nn::Init;
using engine::nn::ParameterSpec;
using engine::nn::Pass;

RopeTables::RopeTables(const ModelConfig& config, engine::Device device)
    : cos_PC(DType::f32, {config.max_position_embeddings, config.head_size() / 2}, device),
      sin_PC(DType::f32, {config.max_position_embeddings, config.head_size() / 2}, device) {
  if (engine::is_planning()) return;
  engine::OwnedTensor cos(DType::f32, {cos_PC.view.rows(), cos_PC.view.columns()});
  engine::OwnedTensor sin(DType::f32, {cos_PC.view.rows(), cos_PC.view.columns()});
  engine::ops::rope_tables(cos, sin, config.rope_theta);
  engine::copy(cos_PC, cos);
  engine::copy(sin_PC, sin);
}

namespace {

ParameterSpec projection(const ModelConfig& config, int64_t layer, const std::string& name, int64_t rows,
                         int64_t columns, double deviation) {
  return {.name = "model.layers." + std::to_string(layer) + ".self_attn." + name,
          .dims = {rows, columns},
          .deviation = deviation * config.initializer_range,
          .layer = layer};
}

// Residual projections begin smaller, so that the stream's variance does not grow with depth (GPT-2).
double residual_factor(const ModelConfig& config) {
  return 1.0 / std::sqrt(2.0 * static_cast<double>(config.num_hidden_layers));
}

}  // namespace

AttentionLayer::AttentionLayer(const ModelConfig& config, int64_t layer, engine::nn::ParameterStore& store,
                               std::shared_ptr<const RopeTables> tables)
    : name_("self_attn"),
      num_heads_(config.num_attention_heads),
      num_kv_heads_(config.kv_heads()),
      head_dim_(config.head_size()),
      scale_(1.0f / std::sqrt(static_cast<float>(config.head_size()))),
      eps_(static_cast<float>(config.rms_norm_eps)),
      interleave_(config.rope_interleave),
      tables_(std::move(tables)),
      device_(store.device()),
      storage_(store.activations()),
      q_proj_(store, projection(config, layer, "q_proj.weight", num_heads_ * head_dim_, config.hidden_size, 1),
              config.attention_bias),
      k_proj_(store, projection(config, layer, "k_proj.weight", num_kv_heads_ * head_dim_, config.hidden_size, 1),
              config.attention_bias),
      v_proj_(store, projection(config, layer, "v_proj.weight", num_kv_heads_ * head_dim_, config.hidden_size, 1),
              config.attention_bias),
      o_proj_(store, projection(config, layer, "o_proj.weight", config.hidden_size, num_heads_ * head_dim_,
                                residual_factor(config))) {
  if (config.qk_norm == "none") return;
  const bool per_head = config.qk_norm == "head";
  auto add_norm = [&](const std::string& name, int64_t heads) {
    ParameterSpec spec = projection(config, layer, name, 1, 1, 1);
    spec.dims = {per_head ? head_dim_ : heads * head_dim_};
    spec.init = Init::ones;
    spec.decays = false;
    return QkNorm{&store.add(spec), per_head ? heads : 1, {}, {}};
  };
  q_norm_ = add_norm("q_norm.weight", num_heads_);
  k_norm_ = add_norm("k_norm.weight", num_kv_heads_);
}

void AttentionLayer::plan(ArenaPlan& plan, int64_t max_rows) {
  ArenaPlan::Scope scope(plan, name_);
  ArenaPlan::Frame frame(plan);
  const int64_t q_width = num_heads_ * head_dim_, k_width = num_kv_heads_ * head_dim_;
  q_ = plan.saved("q_THC", plan.activations(), {max_rows, q_width});
  k_ = plan.saved("k_TGC", plan.activations(), {max_rows, k_width});
  v_ = plan.saved("v_TGC", plan.activations(), {max_rows, k_width});
  o_ = plan.saved("o_THC", plan.activations(), {max_rows, q_width});
  lse_ = plan.saved("lse_TH", DType::f32, {max_rows, num_heads_});
  dq_ = plan.scratch("dq_THC", plan.activations(), {max_rows, q_width});
  dk_ = plan.scratch("dk_TGC", plan.activations(), {max_rows, k_width});
  dv_ = plan.scratch("dv_TGC", plan.activations(), {max_rows, k_width});
  do_ = plan.scratch("do_THC", plan.activations(), {max_rows, q_width});
  if (!q_norm_) return;
  for (auto [norm, width] : {std::pair{&*q_norm_, q_width}, std::pair{&*k_norm_, k_width}}) {
    norm->input = plan.saved("norm_input", plan.activations(), {max_rows, width});
    norm->rstd = plan.saved("norm_rstd", DType::f32, {max_rows * norm->groups});
  }
}

namespace {

// [T, heads * C] seen as [T * groups, width / groups]
template <class AnyTensor>
AnyTensor per_group(const AnyTensor& x, int64_t groups) {
  return AnyTensor(x.data, x.dtype, {x.rows() * groups, x.columns() / groups}, x.device);
}

}  // namespace

void AttentionLayer::normalize(const Pass& pass, const QkNorm& norm, Tensor x_TD) {
  Tensor input = pass.arena->view(norm.input, x_TD.rows());
  engine::copy(input, x_TD);
  engine::ops::rms_norm_forward({.y_TD = per_group(x_TD, norm.groups),
                                 .rstd_T = pass.arena->view(norm.rstd, x_TD.rows() * norm.groups),
                                 .x_TD = per_group(input, norm.groups),
                                 .weight_D = norm.weight->weight,
                                 .eps = eps_});
}

void AttentionLayer::normalize_backward(const Pass& pass, const QkNorm& norm, Tensor dx_TD) {
  norm_offsets_.clear();
  for (int64_t g = 0; g <= pass.granules.count; ++g) norm_offsets_.push_back(pass.granules.offsets[g] * norm.groups);
  engine::ops::rms_norm_backward({.dx_TD = per_group(dx_TD, norm.groups),
                                  .dweight_D = norm.weight->gradient,
                                  .dy_TD = per_group(dx_TD, norm.groups),
                                  .x_TD = per_group(pass.arena->view(norm.input, dx_TD.rows()), norm.groups),
                                  .weight_D = norm.weight->weight,
                                  .rstd_T = pass.arena->view(norm.rstd, dx_TD.rows() * norm.groups),
                                  .granules = {norm_offsets_.data(), pass.granules.count, pass.granules.ends},
                                  .assign = true});
}

void AttentionLayer::rotate(const Pass& pass, Tensor x_THC, int64_t heads, bool inverse) {
  engine::ops::rope({.x_THC = x_THC,
                     .positions = pass.positions,
                     .cos_PC = tables_->cos_PC,
                     .sin_PC = tables_->sin_PC,
                     .num_heads = heads,
                     .head_dim = head_dim_,
                     .interleave = interleave_,
                     .inverse = inverse});
}

void AttentionLayer::attend(const Pass& pass, CausalAttentionForward a) const {
  a.num_heads = num_heads_;
  a.num_kv_heads = num_kv_heads_;
  a.head_dim = head_dim_;
  a.query_len = pass.seq_len;
  a.scale = scale_;
  causal_attention_forward(a);
}

// Sequence by sequence, since each has its own length.
void AttentionLayer::attend_to_kept(const Pass& pass, ConstTensor q_THC) const {
  const int64_t S = pass.seq_len;
  for (int64_t b = 0; b < pass.num_sequences; ++b) {
    const int64_t row = b * S, first_key = pass.kept[b].slot * capacity_;
    attend(pass, {.o_THC = pass.arena->view(o_, row + S).slice_rows(row, S),
                  .lse_TH = pass.arena->view(lse_, row + S).slice_rows(row, S),
                  .q_THC = q_THC.slice_rows(row, S),
                  .k_TGC = kept_keys_->view.slice_rows(first_key, capacity_),
                  .v_TGC = kept_values_->view.slice_rows(first_key, capacity_),
                  .document_starts = pass.document_starts == nullptr ? nullptr : pass.document_starts + row,
                  .num_sequences = 1,
                  .first_position = pass.kept[b].position,
                  .key_stride = capacity_});
  }
}

void AttentionLayer::forward(const Pass& pass, ConstTensor x_TD, Tensor y_TD) {
  const int64_t T = pass.num_rows();
  Tensor q_THC = pass.arena->view(q_, T), k_TGC = pass.arena->view(k_, T), v_TGC = pass.arena->view(v_, T);
  q_proj_.forward(x_TD, q_THC);
  k_proj_.forward(x_TD, k_TGC);
  v_proj_.forward(x_TD, v_TGC);
  if (q_norm_) {
    normalize(pass, *q_norm_, q_THC);
    normalize(pass, *k_norm_, k_TGC);
  }
  rotate(pass, q_THC, num_heads_, false);
  rotate(pass, k_TGC, num_kv_heads_, false);
  if (pass.kept != nullptr) {
    append_keys(pass, k_TGC, v_TGC);
    attend_to_kept(pass, q_THC);
  } else {
    attend(pass, {.o_THC = pass.arena->view(o_, T),
                  .lse_TH = pass.arena->view(lse_, T),
                  .q_THC = q_THC,
                  .k_TGC = k_TGC,
                  .v_TGC = v_TGC,
                  .document_starts = pass.document_starts,
                  .num_sequences = pass.num_sequences,
                  .key_stride = pass.seq_len});
  }
  o_proj_.forward(pass.arena->view(o_, T), y_TD);
}

void AttentionLayer::backward(const Pass& pass, ConstTensor x_TD, ConstTensor dy_TD, Tensor dx_TD) {
  const int64_t T = pass.num_rows();
  Tensor q_THC = pass.arena->view(q_, T), k_TGC = pass.arena->view(k_, T), v_TGC = pass.arena->view(v_, T);
  Tensor o_THC = pass.arena->view(o_, T), do_THC = pass.arena->view(do_, T);
  Tensor dq_THC = pass.arena->view(dq_, T), dk_TGC = pass.arena->view(dk_, T), dv_TGC = pass.arena->view(dv_, T);
  o_proj_.backward_input(dy_TD, do_THC, false);
  o_proj_.backward_weight(o_THC, dy_TD, pass.granules);
  causal_attention_backward({.dq_THC = dq_THC,
                             .dk_TGC = dk_TGC,
                             .dv_TGC = dv_TGC,
                             .do_THC = do_THC,
                             .q_THC = q_THC,
                             .k_TGC = k_TGC,
                             .v_TGC = v_TGC,
                             .o_THC = o_THC,
                             .lse_TH = pass.arena->view(lse_, T),
                             .document_starts = pass.document_starts,
                             .num_heads = num_heads_,
                             .num_kv_heads = num_kv_heads_,
                             .head_dim = head_dim_,
                             .num_sequences = pass.num_sequences,
                             .query_len = pass.seq_len,
                             .scale = scale_});
  rotate(pass, dq_THC, num_heads_, true);
  rotate(pass, dk_TGC, num_kv_heads_, true);
  if (q_norm_) {
    normalize_backward(pass, *q_norm_, dq_THC);
    normalize_backward(pass, *k_norm_, dk_TGC);
  }
  q_proj_.backward_input(dq_THC, dx_TD, false);
  k_proj_.backward_input(dk_TGC, dx_TD, true);
  v_proj_.backward_input(dv_TGC, dx_TD, true);
  q_proj_.backward_weight(x_TD, dq_THC, pass.granules);
  k_proj_.backward_weight(x_TD, dk_TGC, pass.granules);
  v_proj_.backward_weight(x_TD, dv_TGC, pass.granules);
}

void AttentionLayer::reserve_keys(int64_t num_sequences, int64_t capacity) {
  capacity_ = capacity;
  const std::initializer_list<int64_t> dims = {num_sequences * capacity, num_kv_heads_ * head_dim_};
  kept_keys_.emplace(storage_, dims, device_);
  kept_values_.emplace(storage_, dims, device_);
}

void AttentionLayer::append_keys(const Pass& pass, ConstTensor k_TGC, ConstTensor v_TGC) {
  ENSURE(kept_keys_, "no room for keys was reserved");
  const int64_t S = pass.seq_len;
  for (int64_t b = 0; b < pass.num_sequences; ++b) {
    const engine::nn::KeptSequence& kept = pass.kept[b];
    ENSURE((kept.slot + 1) * capacity_ <= kept_keys_->view.rows(), "no room for the keys of sequence ", kept.slot);
    ENSURE(kept.position + pass.seq_len <= capacity_, "position ", kept.position + pass.seq_len,
           " is beyond the room for ", capacity_, " keys");
    const int64_t to = kept.slot * capacity_ + kept.position;
    engine::copy(kept_keys_->view.slice_rows(to, S), k_TGC.slice_rows(b * S, S));
    engine::copy(kept_values_->view.slice_rows(to, S), v_TGC.slice_rows(b * S, S));
  }
}

}  // namespace attention
