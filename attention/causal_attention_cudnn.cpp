#include "attention/causal_attention_cudnn.h"

#include <algorithm>
#include <map>
#include <memory>
#include <unordered_map>
#include <vector>

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

// On Hopper the deterministic backward pass keeps the gradients of all scores of a call in its workspace: so many bytes
// of them at a time, or one key/value head's.
constexpr int64_t kScoreBytes = int64_t{1} << 30;
constexpr int64_t kAlignment = 16;

enum Id : int64_t { kQ = 1, kK, kV, kO, kLse, kDo, kDq, kDk, kDv };

// What a plan depends on: sizes, strides between rows, and the factor on the scores.
struct Shape {
  int64_t sequences, length, heads, kv_heads, head_dim;
  int64_t q_stride, k_stride, v_stride, o_stride;
  float scale;
  int64_t do_stride = 0, dq_stride = 0, dk_stride = 0, dv_stride = 0;  // of the backward pass
  auto operator<=>(const Shape&) const = default;
};

[[noreturn]] void fail(const std::string& reason, const Shape& s) {
  throw engine::Error(engine::ExitCode::environment,
                      engine::str("cuDNN's attention over ", s.sequences, " x ", s.length, " rows, ", s.heads, " and ",
                                  s.kv_heads, " heads of ", s.head_dim, " failed: ", reason));
}
void check(fe::error_t status, const Shape& s) {
  if (status.is_bad()) fail(status.get_message(), s);
}

// A graph of one operation with its plan. Null where cuDNN has none for the shape.
using Plan = std::unique_ptr<fe::graph::Graph>;
using Pointers = std::unordered_map<int64_t, void*>;

CudnnUse& use() {
  thread_local CudnnUse instance;
  return instance;
}

cudnnHandle_t handle() {
  thread_local cudnnHandle_t instance = nullptr;  // lives as long as the process, like the stream
  if (instance == nullptr) {
    const engine::DeviceStream stream = engine::device_stream();  // makes the device the thread's
    cudnnHandle_t created = nullptr;
    cudnnStatus_t status = cudnnCreate(&created);
    const char* call = "cudnnCreate";
    if (status == CUDNN_STATUS_SUCCESS) {
      status = cudnnSetStream(created, stream);
      call = "cudnnSetStream";
    }
    if (status != CUDNN_STATUS_SUCCESS) {
      throw engine::Error(engine::ExitCode::environment, engine::str(call, " failed: ", cudnnGetErrorString(status)));
    }
    instance = created;
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

// Whether a step of making a plan has failed because there is none for this shape; throws what has other reasons.
bool has_no_plan(fe::error_t status, const Shape& s) {
  if (status.is_good()) return false;
  const auto code = status.get_code();
  const std::string message = status.get_message();
  auto says = [&](const char* words) { return message.find(words) != std::string::npos; };
  const bool none = code == fe::error_code_t::GRAPH_NOT_SUPPORTED || code == fe::error_code_t::HEURISTIC_QUERY_FAILED ||
                    says("NOT_SUPPORTED") || says("Deselecting");
  if (!none || says("PREREQUISITE_MISSING")) fail(message, s);  // the latter: an installation lacks a part
  use().no_plan = message;
  return true;
}

// By the first proposal of cuDNN's whose results have the same bits each time.
Plan built(Plan graph, const Shape& s) {
  if (has_no_plan(graph->validate(), s) || has_no_plan(graph->build_operation_graph(handle()), s) ||
      has_no_plan(graph->create_execution_plans({fe::HeurMode_t::A}), s)) {
    return nullptr;
  }
  graph->deselect_numeric_notes({fe::NumericalNote_t::NONDETERMINISTIC});
  if (has_no_plan(graph->check_support(), s) || has_no_plan(graph->build_plans(), s)) return nullptr;
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
  return built(std::move(graph), s);
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
  return built(std::move(graph), s);
}

using Plans = std::map<Shape, Plan>;

// Null where cuDNN has no plan.
fe::graph::Graph* plan_of(Plans& plans, const Shape& s, Plan (*make_plan)(const Shape&)) {
  auto known = plans.find(s);
  if (known == plans.end()) known = plans.emplace(s, make_plan(s)).first;
  return known->second.get();
}

int64_t workspace_bytes(const fe::graph::Graph& graph, const Shape& s) {
  int64_t bytes = 0;
  check(graph.get_workspace_size(bytes), s);
  return bytes;
}

bool is_aligned(const void* data) {
  return reinterpret_cast<uintptr_t>(data) % kAlignment == 0;
}
bool takes(std::initializer_list<ConstTensor> tensors, const int32_t* document_starts, int64_t head_dim) {
  return document_starts == nullptr && head_dim % 8 == 0 && head_dim <= 128 && tensors.begin()->rows() > 0 &&
         std::all_of(tensors.begin(), tensors.end(), [](const ConstTensor& t) {
           return t.dtype == engine::DType::bf16 && is_aligned(t.data) && t.row_stride * 2 % kAlignment == 0;
         });
}

// From a row and a head on.
void* at(const ConstTensor& t, int64_t row, int64_t head, int64_t head_dim) {
  return static_cast<char*>(const_cast<void*>(t.data)) + (row * t.row_stride + head * head_dim) * 2;
}

// The largest divisor of n that is not above `most`; at least 1. So all parts have one shape, and one plan.
int64_t divisor(int64_t n, int64_t most) {
  int64_t result = std::clamp(most, int64_t{1}, n);
  while (n % result != 0) --result;
  return result;
}

int64_t rounded_up(int64_t n, int64_t to) {
  return (n + to - 1) / to * to;
}

}  // namespace

bool cudnn_attention_forward(const CausalAttentionForward& a) {
  if (!takes({a.q_THC, a.k_TGC, a.v_TGC, a.o_THC}, a.document_starts, a.head_dim)) return false;
  if (!is_aligned(a.lse_TH.data)) return false;
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
  ++use().calls;
  return true;
}

// In parts of some sequences, or of some heads of one sequence: all query heads of a key/value head are in one part.
bool cudnn_attention_backward(const CausalAttentionBackward& a) {
  if (!takes({a.q_THC, a.k_TGC, a.v_TGC, a.o_THC, a.do_THC, a.dq_THC, a.dk_TGC, a.dv_TGC}, a.document_starts,
             a.head_dim)) {
    return false;
  }
  const int64_t C = a.head_dim, group = a.num_heads / a.num_kv_heads, padded = rounded_up(a.query_len, 128);
  const int64_t heads_at_once = kScoreBytes / (2 * padded * padded);
  const int64_t kv_heads = divisor(a.num_kv_heads, heads_at_once / group), heads = kv_heads * group;
  const int64_t sequences = heads == a.num_heads ? divisor(a.num_sequences, heads_at_once / heads) : 1;
  thread_local Plans plans;
  const Shape shape{.sequences = sequences,
                    .length = a.query_len,
                    .heads = heads,
                    .kv_heads = kv_heads,
                    .head_dim = C,
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
  const int64_t lse_bytes = rounded_up(sequences * heads * a.query_len * 4, 256);
  auto* scratch = static_cast<char*>(engine::device_scratch(lse_bytes + workspace_bytes(*plan, shape)));
  for (int64_t row = 0; row < a.num_sequences * a.query_len; row += sequences * a.query_len) {
    for (int64_t h = 0, g = 0; h < a.num_heads; h += heads, g += kv_heads) {
      lse_by_head(reinterpret_cast<float*>(scratch), a.lse_TH.f32() + row * a.num_heads + h, sequences, heads,
                  a.query_len, a.num_heads);
      Pointers pointers = {{kQ, at(a.q_THC, row, h, C)},
                           {kK, at(a.k_TGC, row, g, C)},
                           {kV, at(a.v_TGC, row, g, C)},
                           {kO, at(a.o_THC, row, h, C)},
                           {kLse, scratch},
                           {kDo, at(a.do_THC, row, h, C)},
                           {kDq, at(a.dq_THC, row, h, C)},
                           {kDk, at(a.dk_TGC, row, g, C)},
                           {kDv, at(a.dv_TGC, row, g, C)}};
      check(plan->execute(handle(), pointers, scratch + lse_bytes), shape);
    }
  }
  ++use().calls;
  return true;
}

std::string cudnn_library() {
  const size_t version = cudnnGetVersion();
  return engine::str("cuDNN ", version / 10000, ".", version / 100 % 100, ".", version % 100);
}

const CudnnUse& cudnn_use() {
  return use();
}

}  // namespace attention::cuda
