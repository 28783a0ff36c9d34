#include "engine/config/parameter_count.h"

namespace engine {

ParameterCount count_parameters(const ModelConfig& m) {
  const int64_t D = m.hidden_size, q = m.num_attention_heads * m.head_size(), k = m.kv_heads() * m.head_size();
  int64_t attention = D * q * 2 + D * k * 2;
  if (m.attention_bias) attention += q + 2 * k;
  if (m.qk_norm == "head") attention += 2 * m.head_size();
  if (m.qk_norm == "full") attention += q + k;
  const int64_t expert = 3 * D * m.moe_intermediate_size;
  ParameterCount count;
  for (int64_t layer = 0; layer < m.num_hidden_layers; ++layer) {
    int64_t always = attention + 2 * D, routed = 0, chosen = 0;
    if (m.is_moe_layer(layer)) {
      always += D * m.num_experts + m.n_shared_experts * expert + (m.shared_expert_gate ? D : 0);
      routed = m.num_experts * expert;
      chosen = m.num_experts_per_tok * expert;
    } else {
      always += 3 * D * m.dense_intermediate();
    }
    count.total += always + routed;
    count.active += always + chosen;
  }
  const int64_t ends = D + m.vocabulary() * D * (m.tie_word_embeddings ? 1 : 2);
  count.total += ends;
  count.active += ends;
  return count;
}

double forward_flops_per_token(const ModelConfig& m, int64_t seq_len) {
  const double D = static_cast<double>(m.hidden_size), F = static_cast<double>(m.moe_intermediate_size);
  const double q = static_cast<double>(m.num_attention_heads * m.head_size());
  const double k = static_cast<double>(m.kv_heads() * m.head_size());
  double flops = 2 * D * static_cast<double>(m.vocabulary());
  for (int64_t layer = 0; layer < m.num_hidden_layers; ++layer) {
    flops += 4 * D * q + 4 * D * k + 2 * q * static_cast<double>(seq_len + 1);
    if (m.is_moe_layer(layer)) {
      flops += 2 * D * static_cast<double>(m.num_experts);
      flops += static_cast<double>(m.num_experts_per_tok + m.n_shared_experts) * 6 * D * F;
      if (m.shared_expert_gate) flops += 2 * D;
    } else {
      flops += 6 * D * static_cast<double>(m.dense_intermediate());
    }
  }
  return flops;
}

}  // namespace engine
