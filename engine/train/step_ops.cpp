#include "engine/train/step_ops.h"

#include <algorithm>
#include <cmath>

#include "comm/imagined_group.h"
#include "engine/core/thread_pool.h"
#include "engine/core/transfer.h"
#include "engine/model/model.h"
#include "engine/ops/convert.h"
#include "engine/ops/cross_entropy.h"
#include "engine/ops/embedding.h"
#include "engine/ops/rms_norm.h"
#include "engine/ops/swiglu.h"
#include "engine/train/pass_schedule.h"
#include "engine/train/step_op_list.h"
#include "moe/capacity.h"

namespace engine::train {

Tensor Operands::zeros(DType dtype, std::initializer_list<int64_t> dims) {
  return tensors_.emplace_back(dtype, dims, device_);
}

Tensor Operands::f32(std::initializer_list<int64_t> dims, float least) {
  const Tensor tensor = zeros(DType::f32, dims);
  HostEdit edit(tensor, HostEdit::From::zeros);
  parallel_ranges(tensor.num_elements(), int64_t{1} << 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) edit.f32()[i] = static_cast<float>(i * 2654435761 % 65521) / 65521 + least;
  });
  edit.put();
  return tensor;
}

Tensor Operands::rows(std::initializer_list<int64_t> dims) {
  if (activations_ == DType::f32) return f32(dims);
  const Tensor tensor = zeros(activations_, dims);
  Operands wide(device_, DType::f32);
  ops::convert({.y_TD = tensor, .x_TD = wide.f32(dims)});
  return tensor;
}

Tensor Operands::packed(int64_t N, int64_t D) {
  return device_ == Device::cuda ? rows({N, D}) : f32({ops::packed_weight_elements(N, D)});
}

Tensor Operands::i32(std::initializer_list<int64_t> dims, int64_t below) {
  const Tensor tensor = zeros(DType::i32, dims);
  HostEdit edit(tensor, HostEdit::From::zeros);
  for (int64_t i = 0; i < tensor.num_elements(); ++i) edit.view().i32()[i] = static_cast<int32_t>(i % below);
  edit.put();
  return tensor;
}

WeightGradient Operands::gradient(std::initializer_list<int64_t> dims) {
  WeightGradient gradient;
  gradient.chain = zeros(DType::f32, dims);
  gradient.sum = zeros(DType::f64, dims).f64();
  gradient.grid = std::ldexp(1.5, 52 - 36);  // units of 2^-36
  gradient.max_bits = reinterpret_cast<uint32_t*>(zeros(DType::i32, {1}).data);
  return gradient;
}

const int64_t* Operands::offsets(int64_t rows, int64_t parts) {
  std::vector<int64_t>& offsets = offsets_.emplace_back();
  for (int64_t i = 0; i <= parts; ++i) offsets.push_back(rows * i / parts);
  return offsets.data();
}

void StepOpList::pack(const std::string& name, const char* phase, int64_t N, int64_t D, double weights) {
  if (shapes_.layout.device == Device::cuda) return;
  add({.name = name + " packing", .phase = phase, .calls = weights, .bytes = 8.0 * static_cast<double>(N * D)},
      [=](Operands& o, comm::ParallelGroups&) {
        const ops::PackWeight a{.packed = o.packed(N, D), .weight_ND = o.f32({N, D})};
        return [a] { ops::pack_weight(a); };
      });
}

void StepOpList::linear(const Linear& l) {
  const int64_t rows = l.rows, N = l.N, D = l.D, granules = l.granules;
  const double t = static_cast<double>(rows), n = static_cast<double>(N), d = static_cast<double>(D);
  const double flops = 2 * t * n * d, bytes = 4 * (t * d + t * n + n * d);
  const bool f32 = l.f32, f32_result = l.f32 || l.f32_result;
  const auto operand = [](Operands& o, bool as_f32, int64_t count, int64_t columns) {
    return as_f32 ? o.f32({count, columns}) : o.rows({count, columns});
  };
  const bool f32_on_gpu = f32 && shapes_.layout.device == Device::cuda;
  add({.name = l.name + " forward",
       .phase = l.forward,
       .limit = Limit::matmul,
       .calls = l.calls,
       .flops = flops,
       .bytes = bytes},
      [=](Operands& o, comm::ParallelGroups&) {
        const ops::MatmulForward a{.y_TN = operand(o, f32_result, rows, N),
                                   .x_TD = operand(o, f32, rows, D),
                                   .packed_weight = f32_on_gpu ? o.f32({N, D}) : o.packed(N, D)};
        return [a] { ops::matmul_forward(a); };
      });
  add({.name = l.name + " input gradient",
       .phase = l.backward,
       .limit = Limit::matmul,
       .calls = l.calls,
       .flops = flops,
       .bytes = bytes},
      [=](Operands& o, comm::ParallelGroups&) {
        const ops::MatmulBackwardInput a{
            .dx_TD = operand(o, f32, rows, D), .dy_TN = operand(o, f32, rows, N), .weight_ND = operand(o, f32, N, D)};
        return [a] { ops::matmul_backward_input(a); };
      });
  add({.name = l.name + " weight gradient",
       .phase = l.backward,
       .limit = Limit::matmul,
       .calls = l.calls,
       .flops = flops,
       .bytes = 4 * (t * d + t * n) + 16 * n * d * static_cast<double>(granules)},
      [=](Operands& o, comm::ParallelGroups&) {
        const ops::MatmulBackwardWeight a{
            .dweight_ND = o.gradient({N, D}),
            .x_TD = operand(o, f32, rows, D),
            .dy_TN = operand(o, f32, rows, N),
            .granules = {.offsets = o.offsets(rows, granules), .count = granules, .ends = true, .begins = true}};
        return [a] { ops::matmul_backward_weight(a); };
      });
  pack(l.name, l.forward, N, D, l.layers);
}

void StepOpList::norm(const std::string& name, const char* forward, const char* backward, int64_t rows, int64_t D,
                      double calls) {
  const double elements = static_cast<double>(rows * D);
  const int64_t granules = shapes_.granules;
  add({.name = name + " forward", .phase = forward, .calls = calls, .bytes = 8 * elements},
      [=](Operands& o, comm::ParallelGroups&) {
        const ops::RmsNormForward a{
            .y_TD = o.rows({rows, D}), .rstd_T = o.f32({rows}), .x_TD = o.rows({rows, D}), .weight_D = o.f32({D})};
        return [a] { ops::rms_norm_forward(a); };
      });
  add({.name = name + " backward", .phase = backward, .calls = calls, .bytes = 16 * elements},
      [=](Operands& o, comm::ParallelGroups&) {
        const ops::RmsNormBackward a{
            .dx_TD = o.rows({rows, D}),
            .dweight_D = o.gradient({D}),
            .dy_TD = o.rows({rows, D}),
            .x_TD = o.rows({rows, D}),
            .weight_D = o.f32({D}),
            .rstd_T = o.f32({rows}),
            .granules = {.offsets = o.offsets(rows, granules), .count = granules, .ends = true, .begins = true},
            .assign = true};
        return [a] { ops::rms_norm_backward(a); };
      });
}

void StepOpList::swiglu(const std::string& name, const char* forward, const char* backward, int64_t rows, int64_t F,
                        double calls) {
  const double elements = static_cast<double>(rows * F);
  add({.name = name + " forward", .phase = forward, .calls = calls, .bytes = 12 * elements},
      [=](Operands& o, comm::ParallelGroups&) {
        const ops::SwigluForward a{.y_RF = o.rows({rows, F}), .gate_RF = o.rows({rows, F}), .up_RF = o.rows({rows, F})};
        return [a] { ops::swiglu_forward(a); };
      });
  add({.name = name + " backward", .phase = backward, .calls = calls, .bytes = 20 * elements},
      [=](Operands& o, comm::ParallelGroups&) {
        const ops::SwigluBackward a{.dgate_RF = o.rows({rows, F}),
                                    .dup_RF = o.rows({rows, F}),
                                    .dy_RF = o.rows({rows, F}),
                                    .gate_RF = o.rows({rows, F}),
                                    .up_RF = o.rows({rows, F})};
        return [a] { ops::swiglu_backward(a); };
      });
}

namespace {

// Distinct ranks among the K choices of a token, on average.
double ranks_of_a_token(double slots, double ranks) {
  return ranks * (1 - std::pow(1 - 1 / ranks, slots));
}

void add_embedding_and_head(StepOpList& list) {
  const StepShapes& s = list.shapes();
  const int64_t T = s.T, D = s.model.hidden_size, V = s.model.vocabulary(), granules = s.granules;
  const double elements = static_cast<double>(T * D), passes = static_cast<double>(s.passes);
  list.add(
      {.name = "embedding forward", .phase = "embedding", .calls = passes, .bytes = 8 * elements},
      [=](Operands& o, comm::ParallelGroups&) {
        const ops::EmbeddingForward a{.y_TD = o.rows({T, D}), .tokens_T = o.i32({T}, V), .weight_VD = o.f32({V, D})};
        return [a] { ops::embedding_forward(a); };
      });
  list.add({.name = "embedding backward", .phase = "embedding", .calls = passes, .bytes = 24 * elements},
           [=](Operands& o, comm::ParallelGroups&) {
             const ops::EmbeddingBackward a{
                 .dweight_VD = o.gradient({V, D}),
                 .dy_TD = o.rows({T, D}),
                 .tokens_T = o.i32({T}, V),
                 .granules = {.offsets = o.offsets(T, granules), .count = granules, .ends = true, .begins = true}};
             return [a] { ops::embedding_backward(a); };
           });
  list.norm("last norm", "head", "head", T, D, passes);
  // in chunks that end where granules do
  const int64_t rows = T / granules, most = (s.layout.device == Device::cuda ? 512 : 8) << 20;
  const int64_t chunk = std::min(rows, std::max<int64_t>(256, most / (4 * V)));
  const double chunks = std::ceil(static_cast<double>(rows) / static_cast<double>(chunk));
  const int64_t mean = static_cast<int64_t>(std::ceil(static_cast<double>(rows) / chunks));
  const double calls = passes * static_cast<double>(granules) * chunks;
  const bool in_place = s.layout.activations() == DType::f32;
  list.linear({"lm_head", "head", "head", mean, V, D, calls, 1, 1, false, true});
  list.add({.name = "cross_entropy", .phase = "head", .calls = calls, .bytes = 8 * static_cast<double>(mean * V)},
           [=](Operands& o, comm::ParallelGroups&) {
             const Tensor logits_TV = o.f32({mean, V});
             const ops::CrossEntropy a{.losses_T = o.f32({mean}),
                                       .dlogits_TV = in_place ? logits_TV : o.rows({mean, V}),
                                       .logits_TV = logits_TV,
                                       .targets_T = o.i32({mean}, V),
                                       .scale = 1e-3f};
             return [a] { ops::cross_entropy(a); };
           });
}

}  // namespace

StepShapes::StepShapes(const Config& config, const Layout& where)
    : model(config.model), layout(where), S(config.train.seq_len), G(config.train.granules) {
  const PassSchedule schedule(config, 0, layout.ranks);
  passes = schedule.num_passes();
  T = schedule.max_rows();
  sequences = T / S;
  granules = std::max<int64_t>(1, sequences / config.sequences_per_granule());
  experts = comm::experts_of_rank(model.num_experts, 0, static_cast<int>(layout.ep_size)).end;
  const double ep = static_cast<double>(layout.ep_size);
  // every rank of ep sends its share of T * K pairs
  R = model.num_experts == 0 ? 0 : T * model.num_experts_per_tok * layout.ep_size * experts / model.num_experts;
  if (layout.device == Device::cuda && model.num_experts > 0 && model.router.capacity_factor) {
    places =
        moe::expert_capacity(T / granules, model.num_experts_per_tok, model.num_experts, *model.router.capacity_factor);
    R = experts * layout.ep_size * granules * places;
  }
  N = static_cast<int64_t>(static_cast<double>(T) *
                           ranks_of_a_token(static_cast<double>(model.num_experts_per_tok), ep));
  moe_layers = static_cast<double>(model.num_moe_layers());
  attention_layers = static_cast<double>(model.num_hidden_layers);
  dense_layers = attention_layers - moe_layers;
  nn::ParameterStore store;
  const std::unique_ptr<comm::Group> group = comm::make_imagined_group(0, static_cast<int>(layout.ep_size));
  const model::Model registered(config, store, *group);
  dense = store.dense().elements;
  expert = store.expert().elements;
}

std::vector<StepOp> step_ops(const Config& config, const Layout& layout) {
  const StepShapes shapes(config, layout);
  StepOpList list(shapes);
  add_embedding_and_head(list);
  add_attention_ops(list);
  add_moe_ops(list);
  add_exchange_ops(list);
  add_update_ops(list, config);
  return list.take();
}

Config sample_of(const Config& config, Device device) {
  Config sample = config;
  if (device == Device::cuda) return sample;
  ModelConfig& m = sample.model;
  const int64_t heads = m.num_attention_heads, head_size = m.head_size(), kv = m.kv_heads();
  m.head_dim = head_size;
  m.num_hidden_layers = std::min<int64_t>(m.num_hidden_layers, 8);
  if (m.hidden_size > 2048) m.hidden_size = 2048;
  if (heads * head_size > 4096) m.num_attention_heads = heads / kv, m.num_key_value_heads = 1;
  m.moe_intermediate_size = std::min<int64_t>(m.moe_intermediate_size, 2048);
  m.intermediate_size = std::min<int64_t>(m.dense_intermediate(), 8192);
  if (m.num_experts > 0 && m.num_experts * m.hidden_size * m.moe_intermediate_size > 1 << 25) {
    m.num_experts = std::max<int64_t>(m.num_experts_per_tok, (1 << 25) / (m.hidden_size * m.moe_intermediate_size));
    m.n_group = m.topk_group = 1;
  }
  m.vocab_size = std::min<int64_t>(m.vocabulary(), 32768);
  TrainingConfig& t = sample.train;
  if (config.sequences_per_pass() * t.seq_len > 4096) {
    t.seq_len = std::min<int64_t>(t.seq_len, 2048);
    t.batch_tokens.value = t.granules * t.seq_len * (2048 / t.seq_len);
    t.micro_batch.reset();
  }
  return sample;
}

}  // namespace engine::train
