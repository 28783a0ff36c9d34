// What MoeLayer records of a pass, and the gradients of its balance losses.
#include <algorithm>

#include "engine/core/transfer.h"
#include "moe/moe_layer.h"

namespace moe {

using engine::DType;
using engine::nn::Pass;

namespace {

template <class T>
std::span<T> part(std::vector<T>& values, int64_t index, int64_t size) {
  return {values.data() + index * size, static_cast<size_t>(size)};
}

}  // namespace

RoutingSums MoeLayer::start_sums(const Pass& pass, const std::vector<int64_t>& offsets, std::vector<double>& sums) {
  const int64_t T = pass.num_rows();
  const engine::Arena& arena = *pass.arena;
  RoutingSums routing{.sums = sums.data(),
                      .scores_TE = arena.view(scores_, T),
                      .topk_idx_TK = arena.view(topk_idx_, T),
                      .topk_weights_TK = arena.view(topk_weights_, T),
                      .lse_T = arena.view(lse_, T),
                      .entropy_T = arena.view(entropy_, T),
                      .offsets = offsets.data(),
                      .count = static_cast<int64_t>(offsets.size()) - 1,
                      .divide = options_.scores == ScoreFunction::sigmoid};
  if (routing.scores_TE.device == engine::Device::cuda) {
    routing.block_sums =
        dispatcher_.readback().place<double>(routing_blocks(routing) * routing_sums_width(num_experts_));
  }
  routing_sums(routing);
  return routing;
}

void MoeLayer::finish_sums(const RoutingSums& routing) {
  if (routing.block_sums != nullptr) add_block_sums(routing, dispatcher_.readback().host(routing.block_sums));
}

void MoeLayer::start_recording(const Pass& pass) {
  const size_t count = static_cast<size_t>(pass.granules.count);
  const size_t width = static_cast<size_t>(routing_sums_width(num_experts_));
  if (shared_.observer != nullptr) {
    const ConstTensor topk_idx_TK = pass.arena->view(topk_idx_, pass.num_rows());
    int32_t* there = dispatcher_.readback().place<int32_t>(topk_idx_TK.num_elements());
    engine::copy(Tensor(there, DType::i32, {pass.num_rows(), slots_}, topk_idx_TK.device), topk_idx_TK);
    chosen_there_ = there;
  }
  if (!pass.training) return;
  granule_offsets_.assign(pass.granules.offsets, pass.granules.offsets + count + 1);
  granule_sums_.assign(count * width, 0.0);
  for (size_t i = 0; i < count; ++i) statistics_.put(pass.granule_numbers[i], {&granule_sums_[i * width], width});
  granule_routing_ = start_sums(pass, granule_offsets_, granule_sums_);
  range_offsets_ = granule_offsets_;
  if (config_.aux_loss_scope != "sequence") return;
  range_offsets_.clear();
  for (int64_t i = 0; i <= pass.num_sequences; ++i) range_offsets_.push_back(i * pass.seq_len);
  range_sums_.assign(static_cast<size_t>(pass.num_sequences) * width, 0.0);
  range_routing_ = start_sums(pass, range_offsets_, range_sums_);
}

void MoeLayer::finish_recording(const Pass& pass) {
  if (shared_.observer != nullptr) {
    const int32_t* chosen = dispatcher_.readback().host(chosen_there_);
    shared_.observer->routed(index_, pass, ConstTensor(chosen, DType::i32, {pass.num_rows(), slots_}));
  }
  if (!pass.training) return;
  record_granules(pass);
  if (config_.aux_loss_scope == "sequence") record_sequences(pass);
}

void MoeLayer::record_granules(const Pass& pass) {
  const size_t width = static_cast<size_t>(routing_sums_width(num_experts_));
  const int64_t* dropped = config_.capacity_factor ? dispatcher_.readback().host(dropped_) : nullptr;
  finish_sums(granule_routing_);
  for (size_t i = 0; i < static_cast<size_t>(pass.granules.count); ++i) {
    const int64_t number = pass.granule_numbers[i];
    const size_t g = static_cast<size_t>(number);
    statistics_.take(number, {&granule_sums_[i * width], width});
    if (dropped != nullptr) statistics_.dropped_G[g] += dropped[i];
    if (config_.aux_loss_scope == "sequence" || config_.aux_loss_kind != "hf") continue;
    shared_.pool.add(number, part(statistics_.tokens_per_expert_GE, number, num_experts_),
                     part(statistics_.probability_sums_GE, number, num_experts_), statistics_.counted_G[g]);
  }
}

// Balance is measured on each sequence: the ranges are the sequences, and a granule's loss is the sum of theirs.
void MoeLayer::record_sequences(const Pass& pass) {
  const int64_t E = num_experts_;
  const size_t count = static_cast<size_t>(pass.num_sequences), width = static_cast<size_t>(routing_sums_width(E));
  finish_sums(range_routing_);
  range_counts_.resize(count);
  sequence_counts_.resize(count * static_cast<size_t>(E));
  for (size_t i = 0, granule = 0; i < count; ++i) {
    while (range_offsets_[i + 1] > pass.granules.offsets[granule + 1]) ++granule;
    double* sums = &range_sums_[i * width];
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
