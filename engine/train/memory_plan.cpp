#include "engine/train/memory_plan.h"

#include <algorithm>

#include "comm/imagined_group.h"
#include "engine/config/parameter_count.h"
#include "engine/core/device.h"
#include "engine/core/thread_pool.h"
#include "engine/model/model.h"
#include "engine/ops/grouped_way.h"
#include "engine/ops/matmul.h"
#include "engine/train/pass_schedule.h"
#include "engine/train/shards.h"
#include "engine/train/trainer.h"

namespace engine::train {
namespace {

int64_t gradient_bytes(nn::ParameterStore& store) {
  int64_t bytes = store.dense().chains.bytes() + store.expert().chains.bytes();
  for (const nn::Parameter& parameter : store.all()) bytes += parameter.tied.chain ? parameter.elements * 4 : 0;
  return bytes;
}

// On a CPU a layer keeps a copy of a matrix for its product; the embedding is only read by rows. On a GPU products take
// weights as they are, or all of them in bf16.
int64_t packed_bytes(nn::ParameterStore& store, bool tied) {
  if (store.device() == Device::cuda) {
    const bool converted = store.activations() != DType::f32;
    return converted ? (store.dense().elements + store.expert().elements) * 2 : 0;
  }
  int64_t bytes = 0;
  for (const nn::Parameter& parameter : store.all()) {
    const std::vector<int64_t>& dims = parameter.spec.dims;
    if (dims.size() != 2 || (!tied && parameter.spec.name == "model.embed_tokens.weight")) continue;
    bytes += ops::packed_weight_elements(dims[0], dims[1]) * 4;
  }
  return bytes;
}

int64_t moment_bytes(const nn::ParameterBlock& block, int64_t ranks) {
  return shard_elements(layer_ranges(block, ranks), 0) * 8;
}

int64_t round_up(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

// Floats that a task of the gradient of a weight [N, D] takes: see WeightGradientTask.
int64_t gradient_scratch(int64_t N, int64_t D) {
  const int64_t tiles = (N + 11) / 12, most = std::clamp<int64_t>((96 << 10) / (12 * D), 1, 16);
  const int64_t tasks = round_up((tiles + most - 1) / most, 2), rows = 12 * ((tiles + tasks - 1) / tasks);
  return rows * (round_up(D, 32) + 512) + 32 * 512;
}

// Of the largest task of each thread.
int64_t plan_scratch(const ModelConfig& m, int64_t seq_len, int threads) {
  const int64_t D = m.hidden_size, C = m.head_size(), wide = round_up(C, 16), queries = m.num_attention_heads * C;
  const auto copied = [](int64_t step) { return step % 1024 == 0; };  // rows so far apart, before a product
  bool copies = copied(D) || copied(queries) || copied(m.vocabulary());
  int64_t gradient =
      std::max({gradient_scratch(m.vocabulary(), D), gradient_scratch(queries, D), gradient_scratch(D, queries)});
  for (int64_t layer = 0; layer < m.num_hidden_layers; ++layer) {
    const int64_t width = m.is_moe_layer(layer) ? m.moe_intermediate_size : m.dense_intermediate();
    gradient = std::max({gradient, gradient_scratch(width, D), gradient_scratch(D, width)});
    copies = copies || copied(width);
  }
  const int64_t product = 32 * 512 + (copies ? 22 * 12 * (512 + 16) : 0), tiles = round_up(seq_len, 64);
  const int64_t attention = tiles * (2 * C + wide) + 128 * wide + 2 * 64 * 64 + 64;
  return 4 * threads * std::max({attention, gradient, product});
}

// The largest that an op asks for on a GPU: the workspace of products, that of attention's backward pass (in bf16 by
// cuDNN the gradients of up to 1 GiB of scores at a time), or sorted choices; and where the experts' products are
// spread over side streams, a workspace for each.
int64_t plan_gpu_scratch(const ModelConfig& m, int64_t rows, int64_t seq_len, int64_t element_bytes) {
  const int64_t scores = element_bytes < 4 ? rows * m.num_attention_heads * seq_len * element_bytes : 0;
  const int64_t sorting = 24 * rows * std::max<int64_t>(m.num_experts_per_tok, 1), product = int64_t{32} << 20;
  const bool side_streams = m.num_experts > 0 && ops::kGroupedWay == ops::GroupedWay::streams;
  return std::max({product, std::min(scores, int64_t{1} << 30), sorting}) +
         (side_streams ? DeviceFork::kStreams * product : 0);
}

int64_t plan_tokens(const Config& config, const Layout& layout, int64_t rows) {
  const ModelConfig& m = config.model;
  const int64_t K = m.num_experts_per_tok, D = m.head_size();
  const int64_t lists =
      rows * K * (layout.ep_size == 1 ? 20 : 24) + rows * std::min<int64_t>(K, layout.ep_size) * 4 * (K + 2);
  return rows * 20 + m.num_moe_layers() * lists + m.max_position_embeddings * D * 4;
}

}  // namespace

std::vector<MemoryUse::Part> MemoryUse::parts() const {
  return {{"weights", weights},
          {"packed copies", packed},
          {"gradients", gradients},
          {"exact sums", sums},
          {"moments", moments},
          {"activations", activations},
          {"rows at experts", expert_rows},
          {"op scratch", scratch},
          {"tokens and lists", tokens}};
}

int64_t MemoryUse::total() const {
  int64_t bytes = 0;
  for (const Part& part : parts()) bytes += part.bytes;
  return bytes;
}

MemoryUse plan_memory(const Config& config, const Layout& layout) {
  const int64_t rows = PassSchedule(config, 0, layout.ranks).max_rows();
  const std::unique_ptr<comm::Group> ep = comm::make_imagined_group(0, static_cast<int>(layout.ep_size));
  const bool on_gpu = layout.device == Device::cuda;
  nn::ParameterStore store(layout.device, layout.element_bytes < 4 ? DType::bf16 : DType::f32);
  const Buffer::Planning no_memory;
  model::Model model(config, store, *ep);
  store.commit(config.train.granules, true, config.passes_hold_whole_granules());
  model.plan(rows);
  const int64_t arena = model.memory_plan().saved_bytes() + model.memory_plan().scratch_bytes();
  const int64_t seq_len = config.train.seq_len;
  return {.weights = store.dense().weights.bytes() + store.expert().weights.bytes(),
          .packed = packed_bytes(store, config.model.tie_word_embeddings),
          .gradients = gradient_bytes(store),
          .sums = store.dense().sums.bytes() + store.expert().sums.bytes(),
          .moments =
              moment_bytes(store.dense(), layout.ranks) + moment_bytes(store.expert(), layout.ranks / layout.ep_size),
          .activations = arena,
          .expert_rows = model.activation_bytes() - arena,
          .scratch = on_gpu ? plan_gpu_scratch(config.model, rows, seq_len, layout.element_bytes)
                            : plan_scratch(config.model, seq_len, layout.threads),
          .tokens = plan_tokens(config, layout, rows)};
}

MemoryUse memory_in_use(Trainer& trainer) {
  nn::ParameterStore& store = trainer.store();
  const ArenaPlan& plan = trainer.model().memory_plan();
  const int64_t arena = plan.saved_bytes() + plan.scratch_bytes();
  return {.weights = store.dense().weights.bytes() + store.expert().weights.bytes(),
          .packed = store.packed_bytes(),
          .gradients = gradient_bytes(store),
          .sums = store.dense().sums.bytes() + store.expert().sums.bytes(),
          .moments = trainer.optimizer().state_bytes(),
          .activations = arena,
          .expert_rows = trainer.model().activation_bytes() - arena,
          .scratch = scratch_bytes()};
}

int64_t checkpoint_bytes(const ModelConfig& model) {
  return count_parameters(model).total * 12;  // a weight and two moments in fp32
}

}  // namespace engine::train
