#include "attention/causal_attention_cudnn.h"

#include <array>
#include <map>
#include <memory>
#include <unordered_map>

#define CUDNN_FRONTEND_SKIP_JSON_LIB
#pragma GCC diagnostic ignored "-Wunused-function"  // reported at the end of the file
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wshadow"
#include <cudnn_frontend.h>
#pragma GCC diagnostic pop

#include "engine/core/device.h"
#include "engine/core/error.h"

namespace attention::cuda {
namespace {

namespace fe = cudnn_frontend;
using Attributes = std::shared_ptr<fe::graph::Tensor_attributes>;

enum Id : int64_t { kQ = 1, kK, kV, kO, kLse, kDo, kDq, kDk, kDv };

// What a plan depends on: sizes, strides between rows, and the factor on the scores.
struct Shape {
  int64_t sequences, length, heads, kv_heads, head_dim;
  int64_t q_stride, k_stride, v_stride, o_stride;
  float scale;
  int64_t do_stride = 0, dq_stride = 0, dk_stride = 0, dv_stride = 0;  // of the backward pass
  auto operator<=>(const Shape&) const = default;
};

// A graph of one operation with its plan. Null where cuDNN has none for the shape.
using Plan = std::unique_ptr<fe::graph::Graph>;
using Pointers = std::unordered_map<int64_t, void*>;

cudnnHandle_t handle() {
  thread_local cudnnHandle_t instance = nullptr;  // lives as long as the process, like the stream
  if (instance == nullptr) {
    const cudnnStatus_t status = cudnnCreate(&instance);
    if (status != CUDNN_STATUS_SUCCESS) {
      throw engine::Error(engine::ExitCode::environment,
                          engine::str("cudnnCreate failed: ", cudnnGetErrorString(status)));
    }
    cudnnSetStream(instance, engine::device_stream());
  }
  return instance;
}

// [T, heads * C] as cuDNN's [sequences, heads, length, C].
fe::graph::Tensor_attributes rows(const Shape& s, Id id, int64_t heads, int64_t stride) {
  return fe::graph::Tensor_attributes()
      .set_uid(id)
      .set_dim({s.sequences, heads, s.length, s.head_dim})
      .set_stride({s.length * stride, s.head_dim, stride, 1});
}

void set_output(const Attributes& tensor, const Shape& s, Id id, int64_t heads, int64_t stride) {
  const fe::graph::Tensor_attributes as = rows(s, id, heads, stride);
  tensor->set_output(true).set_uid(id).set_dim(as.get_dim()).set_stride(as.get_stride());
}

// lse [T, H] as [sequences, heads, length, 1].
std::vector<int64_t> lse_dims(const Shape& s) {
  return {s.sequences, s.heads, s.length, 1};
}

Plan new_graph() {
  auto graph = std::make_unique<fe::graph::Graph>();
  graph->set_io_data_type(fe::DataType_t::BFLOAT16)
      .set_intermediate_data_type(fe::DataType_t::FLOAT)
      .set_compute_data_type(fe::DataType_t::FLOAT);
  return graph;
}

Plan built(Plan graph) {
  if (graph->build(handle(), {fe::HeurMode_t::A}).is_bad()) return nullptr;
  return graph;
}

Plan forward_plan(const Shape& s) {
  Plan graph = new_graph();
  const auto [o, lse] =
      graph->sdpa(graph->tensor(rows(s, kQ, s.heads, s.q_stride)), graph->tensor(rows(s, kK, s.kv_heads, s.k_stride)),
                  graph->tensor(rows(s, kV, s.kv_heads, s.v_stride)),
                  fe::graph::SDPA_attributes()
                      .set_name("attention")
                      .set_generate_stats(true)
                      .set_causal_mask(true)
                      .set_attn_scale(s.scale));
  set_output(o, s, kO, s.heads, s.o_stride);
  lse->set_output(true)
      .set_uid(kLse)
      .set_data_type(fe::DataType_t::FLOAT)
      .set_dim(lse_dims(s))
      .set_stride({s.length * s.heads, 1, s.heads, 1});
  return built(std::move(graph));
}

Plan backward_plan(const Shape& s) {
  Plan graph = new_graph();
  const Attributes lse = graph->tensor(fe::graph::Tensor_attributes()
                                           .set_uid(kLse)
                                           .set_data_type(fe::DataType_t::FLOAT)
                                           .set_dim(lse_dims(s))
                                           .set_stride({s.length * s.heads, s.length, 1, 1}));
  const auto [dq, dk, dv] = graph->sdpa_backward(
      graph->tensor(rows(s, kQ, s.heads, s.q_stride)), graph->tensor(rows(s, kK, s.kv_heads, s.k_stride)),
      graph->tensor(rows(s, kV, s.kv_heads, s.v_stride)), graph->tensor(rows(s, kO, s.heads, s.o_stride)),
      graph->tensor(rows(s, kDo, s.heads, s.do_stride)), lse,
      fe::graph::SDPA_backward_attributes()
          .set_name("attention backward")
          .set_causal_mask(true)
          .set_attn_scale(s.scale)
          .set_deterministic_algorithm(true));
  set_output(dq, s, kDq, s.heads, s.dq_stride);
  set_output(dk, s, kDk, s.kv_heads, s.dk_stride);
  set_output(dv, s, kDv, s.kv_heads, s.dv_stride);
  return built(std::move(graph));
}

using Plans = std::map<Shape, Plan>;

// Null where cuDNN has no plan.
fe::graph::Graph* plan_of(Plans& plans, const Shape& s, Plan (*make_plan)(const Shape&)) {
  auto known = plans.find(s);
  if (known == plans.end()) known = plans.emplace(s, make_plan(s)).first;
  return known->second.get();
}

void check(fe::error_t status, const Shape& s) {
  if (status.is_good()) return;
  throw engine::Error(engine::ExitCode::environment,
                      engine::str("cuDNN's attention over ", s.sequences, " x ", s.length, " rows, ", s.heads, " and ",
                                  s.kv_heads, " heads of ", s.head_dim, " failed: ", status.get_message()));
}

int64_t workspace_bytes(const fe::graph::Graph& graph, const Shape& s) {
  int64_t bytes = 0;
  check(graph.get_workspace_size(bytes), s);
  return bytes;
}

bool takes(const ConstTensor& q_THC, const int32_t* document_starts, int64_t num_sequences, int64_t head_dim) {
  return q_THC.dtype == engine::DType::bf16 && document_starts == nullptr && num_sequences > 0 && head_dim % 8 == 0 &&
         head_dim <= 128;
}

}  // namespace

bool cudnn_attention_forward(const CausalAttentionForward& a) {
  if (!takes(a.q_THC, a.document_starts, a.num_sequences, a.head_dim)) return false;
  if (a.first_position != 0 || a.key_stride != a.query_len) return false;
  thread_local Plans plans;
  const Shape shape{.sequences = a.num_sequences,
                    .length = a.query_len,
                    .heads = a.num_heads,
                    .kv_heads = a.num_kv_heads,
                    .head_dim = a.head_dim,
                    .q_stride = a.q_THC.row_stride,
                    .k_stride = a.k_TGC.row_stride,
                    .v_stride = a.v_TGC.row_stride,
                    .o_stride = a.o_THC.row_stride,
                    .scale = a.scale};
  fe::graph::Graph* plan = plan_of(plans, shape, forward_plan);
  if (plan == nullptr) return false;
  Pointers pointers = {{kQ, const_cast<void*>(a.q_THC.data)},
                       {kK, const_cast<void*>(a.k_TGC.data)},
                       {kV, const_cast<void*>(a.v_TGC.data)},
                       {kO, a.o_THC.data},
                       {kLse, a.lse_TH.data}};
  check(plan->execute(handle(), pointers, engine::device_scratch(workspace_bytes(*plan, shape))), shape);
  return true;
}

bool cudnn_attention_backward(const CausalAttentionBackward& a) {
  if (!takes(a.q_THC, a.document_starts, a.num_sequences, a.head_dim)) return false;
  thread_local Plans plans;
  const Shape shape{.sequences = a.num_sequences,
                    .length = a.query_len,
                    .heads = a.num_heads,
                    .kv_heads = a.num_kv_heads,
                    .head_dim = a.head_dim,
                    .q_stride = a.q_THC.row_stride,
                    .k_stride = a.k_TGC.row_stride,
                    .v_stride = a.v_TGC.row_stride,
                    .o_stride = a.o_THC.row_stride,
                    .scale = a.scale,
                    .do_stride = a.do_THC.row_stride,
                    .dq_stride = a.dq_THC.row_stride,
                    .dk_stride = a.dk_TGC.row_stride,
                    .dv_stride = a.dv_TGC.row_stride};
  fe::graph::Graph* plan = plan_of(plans, shape, backward_plan);
  if (plan == nullptr) return false;
  const int64_t lse_bytes = (a.lse_TH.num_elements() * 4 + 255) / 256 * 256;
  auto* scratch = static_cast<char*>(engine::device_scratch(lse_bytes + workspace_bytes(*plan, shape)));
  lse_by_head(reinterpret_cast<float*>(scratch), a.lse_TH.f32(), a.num_sequences, a.num_heads, a.query_len);
  Pointers pointers = {{kQ, const_cast<void*>(a.q_THC.data)},
                       {kK, const_cast<void*>(a.k_TGC.data)},
                       {kV, const_cast<void*>(a.v_TGC.data)},
                       {kO, const_cast<void*>(a.o_THC.data)},
                       {kLse, scratch},
                       {kDo, const_cast<void*>(a.do_THC.data)},
                       {kDq, a.dq_THC.data},
                       {kDk, a.dk_TGC.data},
                       {kDv, a.dv_TGC.data}};
  check(plan->execute(handle(), pointers, scratch + lse_bytes), shape);
  return true;
}

}  // namespace attention::cuda
