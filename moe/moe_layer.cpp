#include "moe/moe_layer.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "engine/config/units.h"
#include "engine/core/error.h"
#include "engine/core/rng.h"
#include "engine/core/thread_pool.h"
#include "engine/core/transfer.h"
#include "engine/ops/convert.h"
#include "engine/ops/residual_add.h"
#include "engine/ops/sigmoid_gate.h"

namespace moe {

using engine::DType;
using engine::Profiler;
using engine::nn::Pass;

namespace {

constexpr double kRouterDeviation = 0.02;

std::string prefix(int64_t layer) {
  return "model.layers." + std::to_string(layer) + ".mlp.";
}

std::vector<int64_t> experts_on_rank(const std::vector<int32_t>& rank_of_expert, int rank) {
  std::vector<int64_t> experts;
  for (size_t e = 0; e < rank_of_expert.size(); ++e) {
    if (rank_of_expert[e] == rank) experts.push_back(static_cast<int64_t>(e));
  }
  return experts;
}

RouterOptions router_options(const engine::ModelConfig& config) {
  return {.scores = config.scoring_func == "sigmoid" ? ScoreFunction::sigmoid : ScoreFunction::softmax,
          .normalize = config.norm_topk_prob,
          .scaling = static_cast<float>(config.routed_scaling_factor),
          .num_groups = config.n_group,
          .groups_per_token = config.topk_group,
          .force_uniform = config.router.force == "uniform"};
}

}  // namespace

// While it lives, what the rank waits in ep is this layer's.
class MoeLayer::WaitClock {
 public:
  explicit WaitClock(MoeLayer& layer) : layer_(layer), before_(layer.ep_.waited_seconds()) {}
  ~WaitClock() { layer_.waited_seconds_ += layer_.ep_.waited_seconds() - before_; }
  WaitClock(const WaitClock&) = delete;

 private:
  MoeLayer& layer_;
  double before_;
};

MoeLayer::MoeLayer(const engine::ModelConfig& config, int64_t layer, engine::nn::ParameterStore& store, comm::Group& ep,
                   MoeShared& shared)
    : config_(config.router),
      options_(router_options(config)),
      layer_(layer),
      num_experts_(config.num_experts),
      slots_(config.num_experts_per_tok),
      hidden_size_(config.hidden_size),
      places_(store.device() == engine::Device::cuda && config_.capacity_factor
                  ? expert_capacity(shared.granule_rows, slots_, num_experts_, *config_.capacity_factor)
                  : 0),
      storage_(store.activations()),
      shared_(shared),
      index_(shared.num_layers++),
      ep_(ep),
      gate_(store, {.name = prefix(layer) + "gate.weight",
                    .dims = {config.num_experts, config.hidden_size},
                    .deviation = kRouterDeviation,
                    .layer = layer}),
      dispatcher_(ep, config.num_experts, config.num_experts_per_tok, config.hidden_size,
                  shared.placement.layer(index_, config.num_experts, ep.size()), shared.overlap_chunks, store.device(),
                  store.activations()),
      experts_(config, layer, store,
               experts_on_rank(shared.placement.layer(index_, config.num_experts, ep.size()), ep.rank())),
      statistics_(shared.granules_per_step, config.num_experts),
      sequence_sums_(store.device()),
      dprobabilities_(store.device()),
      offsets_there_(store.device()),
      counts_before_there_(store.device()),
      z_factors_there_(store.device()),
      bias_there_(store.device()) {
  if (config.n_shared_experts > 0) {
    const double down = config.initializer_range / std::sqrt(2.0 * static_cast<double>(config.num_hidden_layers));
    shared_expert_ = std::make_unique<engine::nn::DenseFfn>(
        store, prefix(layer) + "shared_experts", layer, config.hidden_size,
        config.n_shared_experts * config.moe_intermediate_size,
        engine::nn::FfnInit{.deviation = config.initializer_range, .down_deviation = down});
    if (config.shared_expert_gate) {
      shared_gate_ = std::make_unique<engine::nn::Linear>(
          store, engine::nn::ParameterSpec{.name = prefix(layer) + "shared_expert_gate.weight",
                                           .dims = {1, config.hidden_size},
                                           .deviation = config.initializer_range,
                                           .layer = layer});
    }
  }
  if (config_.bias_update_rate > 0) expert_bias_.emplace(num_experts_, config_.bias_update_rate);
}

void MoeLayer::plan(engine::ArenaPlan& plan, int64_t max_rows) {
  engine::ArenaPlan::Scope scope(plan, "mlp");
  engine::ArenaPlan::Frame frame(plan);
  if (routes_a_copy()) {
    routed_input_ = plan.saved("routed_input_TD", DType::f32, {max_rows, hidden_size_});
    drouted_ = plan.scratch("drouted_TD", DType::f32, {max_rows, hidden_size_});
  }
  logits_ = plan.saved("router_logits_TE", DType::f32, {max_rows, num_experts_});
  scores_ = plan.saved("scores_TE", DType::f32, {max_rows, num_experts_});
  topk_idx_ = plan.saved("topk_idx_TK", DType::i32, {max_rows, slots_});
  topk_weights_ = plan.saved("topk_weights_TK", DType::f32, {max_rows, slots_});
  if (config_.capacity_factor) kept_idx_ = plan.scratch("kept_idx_TK", DType::i32, {max_rows, slots_});
  lse_ = plan.saved("lse_T", DType::f32, {max_rows});
  entropy_ = plan.saved("entropy_T", DType::f32, {max_rows});
  dweights_ = plan.scratch("dtopk_weights_TK", DType::f32, {max_rows, slots_});
  dlogits_ = plan.scratch("drouter_logits_TE", DType::f32, {max_rows, num_experts_});
  if (shared_expert_) {
    shared_out_ = plan.saved("shared_out_TD", plan.activations(), {max_rows, hidden_size_});
    shared_logit_ = plan.saved("shared_logit_T", plan.activations(), {max_rows, 1});
    dshared_ = plan.scratch("dshared_TD", plan.activations(), {max_rows, hidden_size_});
    dshared_logit_ = plan.scratch("dshared_logit_T", plan.activations(), {max_rows, 1});
    shared_expert_->plan(plan, max_rows);
  }
  const TokenDispatcher::PassSize size{.max_rows = max_rows,
                                       .headroom = shared_.recv_headroom,
                                       .places = places_ > 0 ? max_rows / shared_.granule_rows * places_ : 0};
  dispatcher_.reserve(size);
  experts_.reserve(dispatcher_.expected_rows(size), shared_.workspace);
  limit_room();
}

// Before room grows for the rows of this pass. A rank that many tokens choose ends the run with a message, not the
// machine.
void MoeLayer::limit_room() {
  if (shared_.recv_memory == 0) return;
  const int64_t rows = dispatcher_.num_rows();
  shared_.recv_bytes_layer.resize(shared_.num_layers);
  shared_.recv_bytes_layer[index_] = std::max(row_bytes(), experts_.bytes_of(rows) + dispatcher_.bytes_of(rows));
  const int64_t total = std::accumulate(shared_.recv_bytes_layer.begin(), shared_.recv_bytes_layer.end(), int64_t{0});
  if (total <= shared_.recv_memory) return;
  throw engine::Error(
      engine::ExitCode::environment,
      engine::str("layer ", layer_, " sends ", rows, " rows to the experts of rank ", ep_.rank(),
                  " of ep, and rows would take ", engine::print_bytes(total), " there, but parallel.recv_memory is ",
                  engine::print_bytes(shared_.recv_memory),
                  "; raise it, lower parallel.recv_headroom, use smaller passes (train.micro_batch) or more "
                  "ranks, or bound the load "
                  "with model.router.capacity_factor"));
}

int64_t MoeLayer::experts_used() const {
  const int64_t* offsets = dispatcher_.offsets();
  int64_t used = 0;
  for (int64_t e = 0; e < dispatcher_.num_local_experts(); ++e) used += offsets[e + 1] > offsets[e];
  return used;
}

Jitter MoeLayer::jitter_of(const Pass& pass, Tensor x_TD) const {
  return {.x_TD = x_TD,
          .key = engine::derive_key(shared_.seed, "jitter/" + std::to_string(layer_)),
          .step = static_cast<uint64_t>(pass.step),
          .first_row = pass.first_row,
          .width = static_cast<float>(config_.jitter)};
}

void MoeLayer::forward(const Pass& pass, ConstTensor x_TD, Tensor y_TD) {
  const WaitClock clock(*this);
  const engine::Arena& arena = *pass.arena;
  const int64_t T = pass.num_rows();
  Tensor topk_idx_TK = arena.view(topk_idx_, T), topk_weights_TK = arena.view(topk_weights_, T);
  {
    Profiler::Scope time(*pass.profiler, "router");
    ConstTensor routed_TD = x_TD;
    if (routes_a_copy()) {
      const Tensor copy_TD = arena.view(routed_input_, T);
      engine::ops::convert({.y_TD = copy_TD, .x_TD = x_TD});
      if (config_.jitter > 0 && pass.training) jitter(jitter_of(pass, copy_TD));
      routed_TD = copy_TD;
    }
    gate_.forward(routed_TD, arena.view(logits_, T));
    ConstTensor bias_E = expert_bias_ ? expert_bias_->view() : ConstTensor();
    ENSURE(!expert_bias_ || bias_E_ != nullptr, "a pass that was not begun");
    if (expert_bias_) bias_E.data = bias_E_;
    router_forward({.scores_TE = arena.view(scores_, T),
                    .topk_weights_TK = topk_weights_TK,
                    .topk_idx_TK = topk_idx_TK,
                    .lse_T = arena.view(lse_, T),
                    .entropy_T = arena.view(entropy_, T),
                    .logits_TE = arena.view(logits_, T),
                    .bias_E = bias_E,
                    .counted = pass.counted,
                    .first_row = pass.first_row,
                    .options = options_});
    record(pass);
    if (pass.training && config_.capacity_factor) topk_idx_TK = drop(pass, topk_idx_TK, topk_weights_TK);
  }
  const Tensor shared_TD = start_experts(pass, x_TD, topk_idx_TK);
  Tensor expert_in_RD = experts_.input(dispatcher_.num_rows());
  for (int64_t chunk = 0; chunk < dispatcher_.num_chunks(); ++chunk) {
    {
      Profiler::Scope time(*pass.profiler, "dispatch");
      dispatcher_.finish_dispatch(chunk, expert_in_RD);
    }
    ConstTensor expert_out_RD;
    {
      Profiler::Scope time(*pass.profiler, "experts forward");
      expert_out_RD = experts_.forward(dispatcher_, chunk);
    }
    Profiler::Scope time(*pass.profiler, "dispatch");
    dispatcher_.start_combine(chunk, expert_out_RD);
  }
  Profiler::Scope time(*pass.profiler, "dispatch");
  dispatcher_.finish_combine(topk_weights_TK, y_TD);
  if (shared_expert_) engine::ops::residual_add({.x_TD = y_TD, .y_TD = shared_TD});
}

// Sends the rows on their way, and returns what the shared expert adds: it computes while they travel or, where one GPU
// has them all, while the host waits for their number.
Tensor MoeLayer::start_experts(const Pass& pass, ConstTensor x_TD, ConstTensor topk_idx_TK) {
  bool early = false;
  Tensor shared_TD;
  {
    Profiler::Scope time(*pass.profiler, "dispatch");
    dispatcher_.start_route(pass, topk_idx_TK, pass.training ? places_ : 0);
    early = dispatcher_.can_permute_early();
    if (early) dispatcher_.permute_early(x_TD, experts_.input(topk_idx_TK.num_elements()));
  }
  if (early) shared_TD = shared_expert_forward(pass, x_TD);
  {
    Profiler::Scope time(*pass.profiler, "dispatch");
    dispatcher_.finish_route();
    show_choices(pass);
    if (pass.training && places_ == 0) statistics_.rows += dispatcher_.num_rows();
    limit_room();
    if (!early) dispatcher_.start_dispatch(x_TD);
  }
  return early ? shared_TD : shared_expert_forward(pass, x_TD);
}

// The choices that capacity leaves. What the router chose stays as it is: the weights and their gradient are those of
// the whole choice.
Tensor MoeLayer::drop(const Pass& pass, ConstTensor topk_idx_TK, ConstTensor topk_weights_TK) {
  Tensor kept_idx_TK = pass.arena->view(kept_idx_, pass.num_rows());
  engine::copy(kept_idx_TK, topk_idx_TK);
  capacities_.clear();
  for (int64_t g = 0; g < pass.granules.count; ++g) {
    capacities_.push_back(expert_capacity(pass.granule_counted[g], slots_, num_experts_, *config_.capacity_factor));
  }
  drop_over_capacity({.topk_idx_TK = kept_idx_TK,
                      .topk_weights_TK = topk_weights_TK,
                      .dropped = pass.granules.count > 0 ? dropped_G_ + pass.granule_numbers[0] : nullptr,
                      .granules = pass.granules,
                      .capacities = capacities_.data(),
                      .num_experts = num_experts_,
                      .by_weight = config_.drop_policy == "probs"});
  return kept_idx_TK;
}

// What is added to the experts' results; nothing without a shared expert.
Tensor MoeLayer::shared_expert_forward(const Pass& pass, ConstTensor x_TD) {
  if (!shared_expert_) return {};
  const engine::Arena& arena = *pass.arena;
  const int64_t T = pass.num_rows();
  Profiler::Scope time(*pass.profiler, "shared expert forward");
  Tensor shared_TD = arena.view(shared_out_, T);
  shared_expert_->forward(pass, x_TD, shared_TD);
  if (!shared_gate_) return shared_TD;
  Tensor gated_TD = arena.view(dshared_, T);
  shared_gate_->forward(x_TD, arena.view(shared_logit_, T));
  engine::ops::sigmoid_gate_forward({.y_TD = gated_TD, .x_TD = shared_TD, .logit_T = arena.view(shared_logit_, T)});
  return gated_TD;
}

// The gradient of the shared expert's input by the way through the expert, and in dlogit_T that of its gate's logit.
Tensor MoeLayer::shared_expert_backward(const Pass& pass, ConstTensor x_TD, ConstTensor dy_TD) {
  if (!shared_expert_) return {};
  const engine::Arena& arena = *pass.arena;
  const int64_t T = pass.num_rows();
  Profiler::Scope time(*pass.profiler, "shared expert backward");
  Tensor dshared_TD = arena.view(dshared_, T), dinput_TD = arena.view(shared_out_, T);
  ConstTensor dout_TD = dy_TD;
  if (shared_gate_) {
    engine::ops::sigmoid_gate_backward({.dx_TD = dshared_TD,
                                        .dlogit_T = arena.view(dshared_logit_, T),
                                        .dy_TD = dy_TD,
                                        .x_TD = arena.view(shared_out_, T),
                                        .logit_T = arena.view(shared_logit_, T)});
    dout_TD = dshared_TD;
  }
  shared_expert_->backward(pass, x_TD, dout_TD, dinput_TD);  // shared_out is used up
  return dinput_TD;
}

void MoeLayer::backward(const Pass& pass, ConstTensor x_TD, ConstTensor dy_TD, Tensor dx_TD) {
  const WaitClock clock(*this);
  const engine::Arena& arena = *pass.arena;
  const int64_t T = pass.num_rows();
  Tensor dweights_TK = arena.view(dweights_, T), dlogits_TE = arena.view(dlogits_, T);
  Tensor dexpert_out_RD = shared_.workspace.dexpert_out.view(storage_, dispatcher_.num_rows(), hidden_size_);
  {
    Profiler::Scope time(*pass.profiler, "dispatch");
    dispatcher_.start_combine_backward(dy_TD, arena.view(topk_weights_, T));
  }
  Tensor dshared_input_TD = shared_expert_backward(pass, x_TD, dy_TD);
  for (int64_t chunk = 0; chunk < dispatcher_.num_chunks(); ++chunk) {
    {
      Profiler::Scope time(*pass.profiler, "dispatch");
      dispatcher_.finish_combine_backward(chunk, dexpert_out_RD);
    }
    ConstTensor dexpert_in_RD;
    {
      Profiler::Scope time(*pass.profiler, "experts backward");
      dexpert_in_RD = experts_.backward(pass, dispatcher_, chunk, dexpert_out_RD, shared_.workspace);
    }
    Profiler::Scope time(*pass.profiler, "dispatch");
    dispatcher_.start_dispatch_backward(chunk, dexpert_in_RD);
  }
  {
    Profiler::Scope time(*pass.profiler, "dispatch");
    dispatcher_.finish_dispatch_backward(dx_TD);
    dispatcher_.weights_backward(dy_TD, experts_.output(), dweights_TK);
  }
  Profiler::Scope time(*pass.profiler, "router");
  router_backward({.dlogits_TE = dlogits_TE,
                   .dtopk_weights_TK = dweights_TK,
                   .scores_TE = arena.view(scores_, T),
                   .topk_idx_TK = arena.view(topk_idx_, T),
                   .logits_TE = arena.view(logits_, T),
                   .lse_T = arena.view(lse_, T),
                   .balance = balance_gradient(pass),
                   .options = options_});
  if (routes_a_copy()) {
    Tensor drouted_TD = arena.view(drouted_, T), routed_TD = arena.view(routed_input_, T);
    gate_.backward_weight(routed_TD, dlogits_TE, pass.granules);
    gate_.backward_input(dlogits_TE, drouted_TD, false);
    if (config_.jitter > 0) jitter(jitter_of(pass, drouted_TD));  // the same factors
    engine::ops::residual_add({.x_TD = dx_TD, .y_TD = drouted_TD});
  } else {
    gate_.backward_weight(x_TD, dlogits_TE, pass.granules);
    gate_.backward_input(dlogits_TE, dx_TD, true);
  }
  if (!shared_expert_) return;
  if (shared_gate_) {
    Tensor dlogit_T = arena.view(dshared_logit_, T);
    shared_gate_->backward_input(dlogit_T, dx_TD, true);
    shared_gate_->backward_weight(x_TD, dlogit_T, pass.granules);
  }
  engine::ops::residual_add({.x_TD = dx_TD, .y_TD = dshared_input_TD});
}

}  // namespace moe
