#include <algorithm>

#include "engine/ops/residual_add.h"
#include "engine/train/grouped_products.h"
#include "moe/permute.h"
#include "moe/router.h"
#include "moe/token_dispatcher.h"

namespace engine::train {
namespace {

constexpr const char *kForward = "experts forward", *kBackward = "experts backward";

void add_projection(StepOpList& list, const std::string& name, int64_t N, int64_t D, double calls, double weights) {
  for (const GroupedProduct& product : grouped_products(list.shapes(), name, N, D)) {
    list.add({.name = product.name,
              .phase = product.forward ? kForward : kBackward,
              .limit = Limit::grouped_matmul,
              .calls = calls,
              .flops = product.flops,
              .bytes = product.bytes},
             [prepare = product.prepare](Operands& o, comm::ParallelGroups&) {
               return [run = prepare(o)] { run(ops::kGroupedWay); };
             });
  }
  list.pack(name, kForward, N, D, weights);
}

void add_router(StepOpList& list, double calls) {
  const StepShapes& s = list.shapes();
  const int64_t T = s.T, E = s.model.num_experts, K = s.model.num_experts_per_tok;
  const double elements = static_cast<double>(T * E);
  const moe::RouterOptions options{
      .scores = s.model.scoring_func == "sigmoid" ? moe::ScoreFunction::sigmoid : moe::ScoreFunction::softmax,
      .normalize = s.model.norm_topk_prob,
      .num_groups = s.model.n_group,
      .groups_per_token = s.model.topk_group};
  list.linear({"gate", "router", "router", T, E, s.model.hidden_size, calls, s.moe_layers, s.granules, true});
  list.add({.name = "router forward", .phase = "router", .calls = calls, .bytes = 8 * elements},
           [=](Operands& o, comm::ParallelGroups&) {
             const moe::RouterForward a{.scores_TE = o.f32({T, E}),
                                        .topk_weights_TK = o.f32({T, K}),
                                        .topk_idx_TK = o.i32({T, K}, E),
                                        .lse_T = o.f32({T}),
                                        .entropy_T = o.f32({T}),
                                        .logits_TE = o.f32({T, E}),
                                        .bias_E = {},
                                        .options = options};
             return [a] { moe::router_forward(a); };
           });
  list.add({.name = "router backward", .phase = "router", .calls = calls, .bytes = 12 * elements},
           [=](Operands& o, comm::ParallelGroups&) {
             const moe::RouterBackward a{.dlogits_TE = o.f32({T, E}),
                                         .dtopk_weights_TK = o.f32({T, K}),
                                         .scores_TE = o.f32({T, E}),
                                         .topk_idx_TK = o.i32({T, K}, E),
                                         .logits_TE = o.f32({T, E}),
                                         .lse_T = o.f32({T}),
                                         .balance = {},
                                         .options = options};
             return [a] { moe::router_backward(a); };
           });
}

void add_rows(StepOpList& list, double calls) {
  const StepShapes& s = list.shapes();
  const int64_t T = s.T, R = s.R, D = s.model.hidden_size, K = s.model.num_experts_per_tok;
  const double rows = 4 * static_cast<double>(R * D), home = 4 * static_cast<double>(T * D);
  const double pairs = static_cast<double>(T * K) * 4 * static_cast<double>(D);
  // tokens and, with scales, their gradients
  list.add({.name = "permute", .phase = "dispatch", .calls = 2 * calls, .bytes = 2 * rows},
           [=](Operands& o, comm::ParallelGroups&) {
             const moe::Permute a{.y_ND = o.rows({R, D}), .x_TD = o.rows({T, D}), .rows = o.i32({R}, T).i32()};
             return [a] { moe::permute(a); };
           });
  list.add({.name = "unpermute", .phase = "dispatch", .calls = 2 * calls, .bytes = pairs + home},
           [=](Operands& o, comm::ParallelGroups&) {
             const moe::Unpermute a{.y_TD = o.rows({T, D}),
                                    .x_ND = o.rows({T * K, D}),
                                    .rows_TK = o.i32({T, K}, T * K).i32(),
                                    .weights_TK = o.f32({T, K}).f32(),
                                    .num_slots = K};
             return [a] { moe::unpermute(a); };
           });
  list.add({.name = "unpermute_weights backward", .phase = "dispatch", .calls = calls, .bytes = pairs + home},
           [=](Operands& o, comm::ParallelGroups&) {
             const moe::UnpermuteWeightsBackward a{.dweights_TK = o.f32({T, K}),
                                                   .dy_TD = o.rows({T, D}),
                                                   .x_ND = o.rows({T * K, D}),
                                                   .rows_TK = o.i32({T, K}, T * K).i32()};
             return [a] { moe::unpermute_weights_backward(a); };
           });
}

// Where rows go: lists made by one thread, or by a GPU, and then with the wait for the numbers of rows.
void add_route(StepOpList& list, double calls) {
  const StepShapes& s = list.shapes();
  const int64_t T = s.T, E = s.model.num_experts, K = s.model.num_experts_per_tok, D = s.model.hidden_size,
                granules = s.granules, places = s.places;
  const Layout layout = s.layout;
  list.add({.name = "route", .phase = "dispatch", .calls = calls, .bytes = 24 * static_cast<double>(T * K)},
           [=](Operands& o, comm::ParallelGroups& groups) {
             auto dispatcher = std::make_shared<moe::TokenDispatcher>(*groups.ep, E, K, D, std::vector<int32_t>{}, 1,
                                                                      layout.device, layout.activations());
             dispatcher->reserve({.max_rows = T, .places = granules * places});
             const nn::Pass pass{
                 .num_sequences = 1, .seq_len = T, .granules = {.offsets = o.offsets(T, granules), .count = granules}};
             const Tensor idx_TK = o.i32({T, K}, E);
             return [=] { dispatcher->start_route(pass, idx_TK, places), dispatcher->finish_route(); };
           });
}

void add_dense_ffn(StepOpList& list, const std::string& name, int64_t width, double layers) {
  const StepShapes& s = list.shapes();
  const int64_t D = s.model.hidden_size;
  const double calls = layers * static_cast<double>(s.passes);
  list.linear({name + " gate_proj and up_proj", "ffn forward", "ffn backward", s.T, width, D, 2 * calls, 2 * layers,
               s.granules});
  if (layers > 0) list.swiglu(name + " swiglu", "ffn forward", "ffn backward", s.T, width, calls);
  list.linear({name + " down_proj", "ffn forward", "ffn backward", s.T, D, width, calls, layers, s.granules});
}

}  // namespace

void add_moe_ops(StepOpList& list) {
  const StepShapes& s = list.shapes();
  const ModelConfig& m = s.model;
  const double passes = static_cast<double>(s.passes), calls = s.moe_layers * passes;
  list.norm("ffn norm", "ffn forward", "ffn backward", s.T, m.hidden_size, s.attention_layers * passes);
  add_dense_ffn(list, "dense", m.dense_intermediate(), s.dense_layers);
  if (calls == 0) return;
  add_router(list, calls);
  add_route(list, calls);
  add_rows(list, calls);
  const int64_t D = m.hidden_size, F = m.moe_intermediate_size;
  const double weights = s.moe_layers * static_cast<double>(s.experts);
  add_projection(list, kGateAndUp, F, D, 2 * calls, 2 * weights);
  list.swiglu("experts swiglu", kForward, kBackward, s.R, F, calls);
  add_projection(list, kDown, D, F, calls, weights);
  if (m.n_shared_experts > 0) add_dense_ffn(list, "shared", m.n_shared_experts * F, s.moe_layers);
}

}  // namespace engine::train
