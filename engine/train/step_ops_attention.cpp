#include "attention/causal_attention.h"
#include "engine/ops/residual_add.h"
#include "engine/ops/rope.h"
#include "engine/train/step_op_list.h"

namespace engine::train {
namespace {

constexpr const char *kForward = "attention forward", *kBackward = "attention backward";

// Two products forward, five backward, each over (S + 1) / 2 keys on average.
void add_causal_attention(StepOpList& list, double calls) {
  const StepShapes& s = list.shapes();
  const int64_t T = s.T, S = s.S, sequences = s.sequences, H = s.model.num_attention_heads, G = s.model.kv_heads(),
                C = s.model.head_size();
  const double scores = static_cast<double>(T * H * C * (S + 1)), q = static_cast<double>(T * H * C),
               k = static_cast<double>(T * G * C);
  list.add({.name = "causal_attention forward",
            .phase = kForward,
            .limit = Limit::attention,
            .calls = calls,
            .flops = 2 * scores,
            .bytes = 4 * (2 * q + 2 * k)},
           [=](Operands& o, comm::ParallelGroups&) {
             const attention::CausalAttentionForward a{.o_THC = o.rows({T, H * C}),
                                                       .lse_TH = o.f32({T, H}),
                                                       .q_THC = o.rows({T, H * C}),
                                                       .k_TGC = o.rows({T, G * C}),
                                                       .v_TGC = o.rows({T, G * C}),
                                                       .num_heads = H,
                                                       .num_kv_heads = G,
                                                       .head_dim = C,
                                                       .num_sequences = sequences,
                                                       .query_len = S,
                                                       .key_stride = S,
                                                       .scale = 0.1f};
             return [a] { attention::causal_attention_forward(a); };
           });
  list.add({.name = "causal_attention backward",
            .phase = kBackward,
            .limit = Limit::attention,
            .calls = calls,
            .flops = 5 * scores,
            .bytes = 4 * (4 * q + 4 * k)},
           [=](Operands& o, comm::ParallelGroups&) {
             const attention::CausalAttentionBackward a{.dq_THC = o.rows({T, H * C}),
                                                        .dk_TGC = o.rows({T, G * C}),
                                                        .dv_TGC = o.rows({T, G * C}),
                                                        .do_THC = o.rows({T, H * C}),
                                                        .q_THC = o.rows({T, H * C}),
                                                        .k_TGC = o.rows({T, G * C}),
                                                        .v_TGC = o.rows({T, G * C}),
                                                        .o_THC = o.rows({T, H * C}),
                                                        .lse_TH = o.f32({T, H}, 4.5),  // of a sum over many keys
                                                        .num_heads = H,
                                                        .num_kv_heads = G,
                                                        .head_dim = C,
                                                        .num_sequences = sequences,
                                                        .query_len = S,
                                                        .scale = 0.1f};
             return [a] { attention::causal_attention_backward(a); };
           });
}

void add_rope(StepOpList& list, const std::string& name, int64_t heads, double calls) {
  const StepShapes& s = list.shapes();
  const int64_t T = s.T, S = s.S, C = s.model.head_size();
  for (const bool inverse : {false, true}) {
    list.add({.name = name + (inverse ? " backward" : " forward"),
              .phase = inverse ? kBackward : kForward,
              .calls = calls,
              .bytes = 8 * static_cast<double>(T * heads * C)},
             [=](Operands& o, comm::ParallelGroups&) {
               const ops::Rope a{.x_THC = o.rows({T, heads * C}),
                                 .positions = o.i32({T}, S).i32(),
                                 .cos_PC = o.f32({S, C / 2}),
                                 .sin_PC = o.f32({S, C / 2}),
                                 .num_heads = heads,
                                 .head_dim = C,
                                 .inverse = inverse};
               return [a] { ops::rope(a); };
             });
  }
}

}  // namespace

void add_attention_ops(StepOpList& list) {
  const StepShapes& s = list.shapes();
  const ModelConfig& m = s.model;
  const int64_t T = s.T, D = m.hidden_size, C = m.head_size(), H = m.num_attention_heads, G = m.kv_heads();
  const double layers = s.attention_layers, calls = layers * static_cast<double>(s.passes);
  list.norm("input norm", kForward, kBackward, T, D, calls);
  list.linear({"q_proj", kForward, kBackward, T, H * C, D, calls, layers, s.granules});
  list.linear({"k_proj and v_proj", kForward, kBackward, T, G * C, D, 2 * calls, 2 * layers, s.granules});
  if (m.qk_norm != "none") {
    const bool per_head = m.qk_norm == "head";
    list.norm("q_norm", kForward, kBackward, per_head ? T * H : T, per_head ? C : H * C, calls);
    list.norm("k_norm", kForward, kBackward, per_head ? T * G : T, per_head ? C : G * C, calls);
  }
  add_rope(list, "rope of queries", H, calls);
  add_rope(list, "rope of keys", G, calls);
  add_causal_attention(list, calls);
  list.linear({"o_proj", kForward, kBackward, T, D, H * C, calls, layers, s.granules});
  // after attention and after the FFN
  list.add({.name = "residual_add", .phase = kForward, .calls = 2 * calls, .bytes = 12 * static_cast<double>(T * D)},
           [=](Operands& o, comm::ParallelGroups&) {
             const ops::ResidualAdd a{.x_TD = o.rows({T, D}), .y_TD = o.rows({T, D})};
             return [a] { ops::residual_add(a); };
           });
}

}  // namespace engine::train
