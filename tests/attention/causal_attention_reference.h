// Causal attention in double precision, one query and one key at a time.
#pragma once

#include <cmath>
#include <vector>

#include "engine/core/tensor.h"

namespace test {

struct AttentionShape {
  int64_t sequences = 1, seq_len = 1, heads = 1, kv_heads = 1, head_dim = 4;

  int64_t rows() const { return sequences * seq_len; }
  int64_t width() const { return heads * head_dim; }
  int64_t kv_width() const { return kv_heads * head_dim; }
  double scale() const { return 1 / std::sqrt(static_cast<double>(head_dim)); }
};

// Calls visit(query row, head, weights of the sequence's keys 0 to its position, first element of q and o, of k).
template <class Visit>
void for_each_query(const AttentionShape& s, const std::vector<double>& q, const std::vector<double>& k,
                    const std::vector<int32_t>& starts, Visit visit) {
  for (int64_t t = 0; t < s.rows(); ++t) {
    const int64_t sequence_row = t / s.seq_len * s.seq_len;
    for (int64_t h = 0; h < s.heads; ++h) {
      const int64_t at_q = t * s.width() + h * s.head_dim;
      const int64_t at_k = sequence_row * s.kv_width() + h * s.kv_heads / s.heads * s.head_dim;
      std::vector<double> weights(static_cast<size_t>(t - sequence_row + 1), 0.0);
      double total = 0;
      for (size_t j = static_cast<size_t>(starts[static_cast<size_t>(t)]); j < weights.size(); ++j) {
        double score = 0;
        for (int64_t c = 0; c < s.head_dim; ++c) {
          score += q[static_cast<size_t>(at_q + c)] *
                   k[static_cast<size_t>(at_k + static_cast<int64_t>(j) * s.kv_width() + c)];
        }
        total += weights[j] = std::exp(score * s.scale());
      }
      for (double& w : weights) w /= total;
      visit(t, h, weights, std::log(total), at_q, at_k);
    }
  }
}

struct AttentionOutput {
  std::vector<double> o, lse;
};
inline AttentionOutput attention_reference(const AttentionShape& s, const std::vector<double>& q,
                                           const std::vector<double>& k, const std::vector<double>& v,
                                           const std::vector<int32_t>& starts) {
  AttentionOutput out{std::vector<double>(q.size(), 0.0), {}};
  for_each_query(s, q, k, starts, [&](int64_t, int64_t, auto& weights, double lse, int64_t at_q, int64_t at_k) {
    for (size_t j = 0; j < weights.size(); ++j) {
      for (int64_t c = 0; c < s.head_dim; ++c) {
        out.o[static_cast<size_t>(at_q + c)] +=
            weights[j] * v[static_cast<size_t>(at_k + static_cast<int64_t>(j) * s.kv_width() + c)];
      }
    }
    out.lse.push_back(lse);
  });
  return out;
}

}  // namespace test
