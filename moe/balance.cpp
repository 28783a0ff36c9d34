// What MoeLayer records of a pass, and the gradients of its balance losses.
#include <algorithm>

#include "moe/moe_layer.h"

namespace moe {

using engine::nn::Pass;

namespace {

template <class T>
std::span<T> part(std::vector<T>& values, int64_t index, int64_t size) {
  return {values.data() + index * size, static_cast<size_t>(size)};
}

}  // namespace

RoutingSums MoeLayer::routing_of(const Pass& pass) const {
  const int64_t T = pass.num_rows();
  return {.scores_TE = pass.arena->view(scores_, T),
          .topk_idx_TK = pass.arena->view(topk_idx_, T),
          .topk_weights_TK = pass.arena->view(topk_weights_, T),
          .lse_T = pass.arena->view(lse_, T),
          .entropy_T = pass.arena->view(entropy_, T),
          .divide = options_.scores == ScoreFunction::sigmoid};
}

void MoeLayer::record(const Pass& pass) {
  const size_t count = static_cast<size_t>(pass.granules.count);
  const size_t width = static_cast<size_t>(routing_sums_width(num_experts_));
  RoutingSums routing = routing_of(pass);
  routing_sums_.assign(count * width, 0.0);
  for (size_t i = 0; i < count; ++i) statistics_.put(pass.granule_numbers[i], {&routing_sums_[i * width], width});
  routing.sums = routing_sums_.data();
  routing.offsets = pass.granules.offsets;
  routing.count = pass.granules.count;
  routing_sums(routing);
  for (size_t i = 0; i < count; ++i) statistics_.take(pass.granule_numbers[i], {&routing_sums_[i * width], width});
  range_offsets_.assign(pass.granules.offsets, pass.granules.offsets + count + 1);
  if (config_.aux_loss_scope == "sequence") {
    record_sequences(pass, routing);
  } else if (config_.aux_loss_kind == "hf") {
    for (size_t i = 0; i < count; ++i) {
      const int64_t g = pass.granule_numbers[i];
      shared_.pool.add(g, part(statistics_.tokens_per_expert_GE, g, num_experts_),
                       part(statistics_.probability_sums_GE, g, num_experts_),
                       statistics_.counted_G[static_cast<size_t>(g)]);
    }
  }
}

// Balance is measured on each sequence: the ranges are the sequences, and a granule's loss is the sum of theirs.
void MoeLayer::record_sequences(const Pass& pass, RoutingSums routing) {
  const int64_t E = num_experts_;
  const size_t count = static_cast<size_t>(pass.num_sequences), width = static_cast<size_t>(routing_sums_width(E));
  range_offsets_.resize(count + 1);
  for (size_t i = 0; i <= count; ++i) range_offsets_[i] = static_cast<int64_t>(i) * pass.seq_len;
  routing_sums_.assign(count * width, 0.0);
  routing.sums = routing_sums_.data();
  routing.offsets = range_offsets_.data();
  routing.count = pass.num_sequences;
  routing_sums(routing);
  range_counts_.resize(count);
  sequence_counts_.resize(count * static_cast<size_t>(E));
  for (size_t i = 0, granule = 0; i < count; ++i) {
    while (range_offsets_[i + 1] > pass.granules.offsets[granule + 1]) ++granule;
    double* sums = &routing_sums_[i * width];
    const std::span<int64_t> counts = part(sequence_counts_, static_cast<int64_t>(i), E);
    for (size_t e = 0; e < counts.size(); ++e) counts[e] = static_cast<int64_t>(sums[static_cast<size_t>(E) + e]);
    range_counts_[i] = static_cast<int64_t>(sums[2 * E + kCounted]);
    statistics_.aux_sums_G[static_cast<size_t>(pass.granule_numbers[granule])] +=
        switch_loss(counts, {sums, static_cast<size_t>(E)}, range_counts_[i]);
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
