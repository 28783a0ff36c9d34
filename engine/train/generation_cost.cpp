#include "engine/train/generation_cost.h"

#include <cmath>

#include "engine/config/parameter_count.h"

namespace engine::train {

GenerationCost generation_cost(const ModelConfig& m, int64_t batch, double context, double experts) {
  const double E = static_cast<double>(m.num_experts), K = static_cast<double>(m.num_experts_per_tok);
  const double layers = static_cast<double>(m.num_moe_layers()), tokens = static_cast<double>(batch);
  const double expert = 3 * static_cast<double>(m.hidden_size * m.moe_intermediate_size);
  GenerationCost cost;
  cost.experts = experts >= 0 ? experts : layers > 0 ? E * (1 - std::pow(1 - K / E, tokens)) : 0;
  // an embedding that is not the head is read by rows
  const double embedding = static_cast<double>(m.vocabulary() * m.hidden_size);
  const double always =
      static_cast<double>(count_parameters(m).active) - layers * K * expert - (m.tie_word_embeddings ? 0 : embedding);
  cost.weight_bytes = 4 * (always + layers * cost.experts * expert);
  cost.cache_bytes_per_token = 8 * static_cast<double>(m.num_hidden_layers * m.kv_heads() * m.head_size());
  cost.cache_bytes = tokens * context * cost.cache_bytes_per_token;
  return cost;
}

}  // namespace engine::train
