// What MoeLayer records of a pass, and the gradients of its balance losses.
#include <algorithm>

#include "moe/moe_layer.h"

namespace moe {

using engine::nn::Pass;

namespace {

// Adds rows [begin, end) to counts and probability sums, token by token.
struct RowSums {
  std::span<int64_t> tokens_per_expert;
  std::span<double> probability_sums;
};

void add_rows(RowSums sums, const ConstTensor& scores_TE, const ConstTensor& topk_idx_TK, bool divide, int64_t begin,
              int64_t end) {
  const int64_t E = scores_TE.columns(), K = topk_idx_TK.columns();
  for (int64_t t = begin; t < end; ++t) {
    const int32_t* idx = topk_idx_TK.i32() + t * K;
    if (idx[0] < 0) continue;
    const float* scores = scores_TE.f32() + t * E;
    for (int64_t k = 0; k < K; ++k) ++sums.tokens_per_expert[static_cast<size_t>(idx[k])];
    float total = 1.0f;
    if (divide) {  // sigmoid scores become shares, as router_backward has them
      total = 1e-20f;
      for (int64_t e = 0; e < E; ++e) total = total + scores[e];
    }
    for (int64_t e = 0; e < E; ++e)
      sums.probability_sums[static_cast<size_t>(e)] += static_cast<double>(scores[e] / total);
  }
}

int64_t counted_rows(const ConstTensor& topk_idx_TK, int64_t begin, int64_t end) {
  int64_t count = 0;
  for (int64_t t = begin; t < end; ++t) count += topk_idx_TK.i32()[t * topk_idx_TK.columns()] >= 0 ? 1 : 0;
  return count;
}

template <class T>
std::span<T> part(std::vector<T>& values, int64_t index, int64_t size) {
  return {values.data() + index * size, static_cast<size_t>(size)};
}

}  // namespace

void MoeLayer::record(const Pass& pass) {
  const int64_t T = pass.num_rows(), E = num_experts_;
  const ConstTensor scores_TE = pass.arena->view(scores_, T), topk_idx_TK = pass.arena->view(topk_idx_, T);
  const ConstTensor topk_weights_TK = pass.arena->view(topk_weights_, T);
  const float *lse_T = pass.arena->view(lse_, T).f32(), *entropy_T = pass.arena->view(entropy_, T).f32();
  const bool divide = options_.scores == ScoreFunction::sigmoid;
  const bool by_sequence = config_.aux_loss_scope == "sequence";
  range_offsets_.assign(1, 0);
  range_counts_.clear();
  sequence_counts_.clear();
  for (int64_t i = 0; i < pass.granules.count; ++i) {
    const int64_t g = pass.granule_numbers[i], begin = pass.granules.offsets[i], end = pass.granules.offsets[i + 1];
    const size_t at = static_cast<size_t>(g);
    const RowSums sums{part(statistics_.tokens_per_expert_GE, g, E), part(statistics_.probability_sums_GE, g, E)};
    add_rows(sums, scores_TE, topk_idx_TK, divide, begin, end);
    statistics_.counted_G[at] += counted_rows(topk_idx_TK, begin, end);
    for (int64_t t = begin; t < end; ++t) {
      if (topk_idx_TK.i32()[t * slots_] < 0) continue;
      statistics_.z_sums_G[at] += static_cast<double>(lse_T[t]) * static_cast<double>(lse_T[t]);
      statistics_.entropy_sums_G[at] += static_cast<double>(entropy_T[t]);
      statistics_.first_weight_sums_G[at] += static_cast<double>(topk_weights_TK.f32()[t * slots_]);
    }
    if (!by_sequence) {
      range_offsets_.push_back(end);
      if (config_.aux_loss_kind == "hf") {
        shared_.pool.add(g, sums.tokens_per_expert, sums.probability_sums, statistics_.counted_G[at]);
      }
      continue;
    }
    for (int64_t row = begin; row < end; row += pass.seq_len) {
      const size_t first = sequence_counts_.size();
      sequence_counts_.resize(first + static_cast<size_t>(E), 0);
      sequence_sums_.assign(static_cast<size_t>(E), 0.0);
      const std::span<int64_t> counts{sequence_counts_.data() + first, static_cast<size_t>(E)};
      add_rows({counts, sequence_sums_}, scores_TE, topk_idx_TK, divide, row, row + pass.seq_len);
      range_counts_.push_back(counted_rows(topk_idx_TK, row, row + pass.seq_len));
      range_offsets_.push_back(row + pass.seq_len);
      statistics_.aux_sums_G[at] += switch_loss(counts, sequence_sums_, range_counts_.back());
    }
  }
}

void MoeLayer::balance_gradient(const Pass& pass) {
  const size_t E = static_cast<size_t>(num_experts_), ranges = range_offsets_.size() - 1;
  dprobabilities_.resize(ranges * E);
  z_factors_.resize(ranges);
  const double G = static_cast<double>(pass.granules_per_step);
  for (size_t i = 0, granule = 0; i < ranges; ++i) {
    while (range_offsets_[i + 1] > pass.granules.offsets[granule + 1]) ++granule;
    const int64_t g = pass.granule_numbers[granule], tokens = pass.granule_counted[granule];
    const std::span<float> out{dprobabilities_.data() + i * E, E};
    z_factors_[i] = static_cast<float>(config_.z_loss_coef / (G * static_cast<double>(tokens)));
    if (config_.aux_loss_scope == "sequence") {
      const double sequences = G * static_cast<double>(pass.sequences_per_granule);
      switch_loss_gradient({sequence_counts_.data() + i * E, E}, range_counts_[i], config_.aux_loss_coef / sequences,
                           out);
    } else if (config_.aux_loss_kind == "hf") {
      shared_.pool.gradient(g, config_.aux_loss_coef / G, out);
    } else if (config_.aux_loss_scope == "global" && !previous_counts_.empty()) {
      switch_loss_gradient(previous_counts_, tokens, config_.aux_loss_coef / G, out);
    } else {
      switch_loss_gradient(part(statistics_.tokens_per_expert_GE, g, num_experts_), tokens, config_.aux_loss_coef / G,
                           out);
    }
  }
}

double MoeLayer::aux_loss(int64_t granule) {
  const size_t g = static_cast<size_t>(granule);
  if (config_.aux_loss_kind == "hf") return shared_.pool.loss(granule);
  if (config_.aux_loss_scope == "sequence") return statistics_.aux_sums_G[g];
  const std::span<double> sums = part(statistics_.probability_sums_GE, granule, num_experts_);
  const bool global = config_.aux_loss_scope == "global" && !previous_counts_.empty();
  return switch_loss(global ? std::span<const int64_t>(previous_counts_)
                            : part(statistics_.tokens_per_expert_GE, granule, num_experts_),
                     sums, statistics_.counted_G[g]);
}

void MoeLayer::finish_step(std::span<const int64_t> tokens_per_expert) {
  if (expert_bias_) expert_bias_->update(tokens_per_expert);
  if (config_.aux_loss_scope == "global") previous_counts_.assign(tokens_per_expert.begin(), tokens_per_expert.end());
}

}  // namespace moe
