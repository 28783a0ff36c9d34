// What MoeLayer records of a step, and the gradients of its balance losses.
#include <algorithm>
#include <utility>

#include "engine/core/transfer.h"
#include "moe/moe_layer.h"

namespace moe {

using engine::Device;
using engine::DType;
using engine::nn::Pass;

namespace {

template <class T>
std::span<const T> part(const std::vector<T>& values, int64_t index, int64_t size) {
  return {values.data() + index * size, static_cast<size_t>(size)};
}

}  // namespace

void MoeLayer::begin_step() {
  statistics_.clear();
  const int64_t G = shared_.granules_per_step;
  sums_GW_ = shared_.recorded.place<double>(G * sums_width());
  dropped_G_ = shared_.recorded.place<int64_t>(G);
  const Device device = sequence_sums_.device();
  engine::set_zero(Tensor(sums_GW_, DType::f64, {G, sums_width()}, device));
  engine::set_zero(Tensor(dropped_G_, DType::i64, {G}, device));
  if (pooled() && index_ == 0) engine::set_zero(shared_.pooled_sums.view(DType::f64, G, sums_width()));
}

void MoeLayer::take_recorded() {
  const double* sums_GW = shared_.recorded.host(std::exchange(sums_GW_, nullptr));
  const int64_t* dropped_G = shared_.recorded.host(std::exchange(dropped_G_, nullptr));
  statistics_.take(sums_GW, dropped_G);
}

void MoeLayer::begin_pass(const Pass& pass) {
  if (expert_bias_) bias_E_ = bias_there_.of(expert_bias_->view().f32(), num_experts_);
  chosen_there_ = nullptr;
  if (shared_.observer != nullptr && sequence_sums_.device() == Device::cuda) place_choices(pass);
  if (!pass.training) return;
  counts_before_.assign(previous_counts_.begin(), previous_counts_.end());
  counts_before_there_E_ =
      counts_before_.empty() ? nullptr : counts_before_there_.of(counts_before_.data(), num_experts_);
  if (places_ > 0) statistics_.rows += dispatcher_.num_places(pass, places_);
}

double* MoeLayer::sums_of(const Pass& pass, double* sums_GW) const {
  return pass.granules.count == 0 ? sums_GW : sums_GW + pass.granule_numbers[0] * sums_width();
}

void MoeLayer::add_sums(const Pass& pass, const std::vector<int64_t>& offsets, double* sums) const {
  const int64_t T = pass.num_rows();
  const engine::Arena& arena = *pass.arena;
  routing_sums({.sums = sums,
                .scores_TE = arena.view(scores_, T),
                .topk_idx_TK = arena.view(topk_idx_, T),
                .topk_weights_TK = arena.view(topk_weights_, T),
                .lse_T = arena.view(lse_, T),
                .entropy_T = arena.view(entropy_, T),
                .offsets = offsets.data(),
                .count = std::ssize(offsets) - 1,
                .divide = options_.scores == ScoreFunction::sigmoid});
}

void MoeLayer::record(const Pass& pass) {
  record_choices(pass);
  if (!pass.training) return;
  const int64_t count = pass.granules.count;
  ENSURE(sums_GW_ != nullptr, "a training pass of a step that was not begun");
  ENSURE(count == 0 || pass.granule_numbers[count - 1] == pass.granule_numbers[0] + count - 1,
         "the granules of a pass have consecutive numbers");
  granule_offsets_.assign(pass.granules.offsets, pass.granules.offsets + count + 1);
  add_sums(pass, granule_offsets_, sums_of(pass, sums_GW_));
  if (pooled()) add_sums(pass, granule_offsets_, sums_of(pass, shared_.pooled_sums.f64()));
  range_offsets_ = granule_offsets_;
  if (!by_sequence() || count == 0) return;
  range_offsets_.clear();
  for (int64_t i = 0; i <= pass.num_sequences; ++i) range_offsets_.push_back(i * pass.seq_len);
  const Tensor sequence_sums = sequence_sums_.view(DType::f64, pass.num_sequences, sums_width());
  engine::set_zero(sequence_sums);
  add_sums(pass, range_offsets_, sequence_sums.f64());
  sequence_losses({.granule_sums = sums_of(pass, sums_GW_),
                   .sequence_sums = sequence_sums.f64(),
                   .num_granules = count,
                   .sequences_per_granule = pass.num_sequences / count,
                   .num_experts = num_experts_,
                   .device = sequence_sums.device});
}

// On a GPU choices come to the host with whatever comes next: those of a training step at its end, others with the
// numbers of rows.
void MoeLayer::place_choices(const Pass& pass) {
  engine::Readback& readback = pass.training ? shared_.recorded : dispatcher_.readback();
  chosen_there_ = readback.place<int32_t>(pass.num_rows() * slots_);
  const ConstTensor chosen_TK(chosen_there_, DType::i32, {pass.num_rows(), slots_}, Device::cuda);
  if (pass.training) shared_.choices.push_back({index_, pass, chosen_TK});
}

void MoeLayer::record_choices(const Pass& pass) {
  const ConstTensor topk_idx_TK = pass.arena->view(topk_idx_, pass.num_rows());
  if (chosen_there_ != nullptr) {
    engine::copy(Tensor(chosen_there_, DType::i32, {pass.num_rows(), slots_}, Device::cuda), topk_idx_TK);
  } else if (shared_.observer != nullptr) {
    shared_.observer->routed(index_, pass, topk_idx_TK);
  }
}

void MoeLayer::show_choices(const Pass& pass) {
  if (pass.training || chosen_there_ == nullptr) return;
  const int32_t* chosen = dispatcher_.readback().host(chosen_there_);
  shared_.observer->routed(index_, pass, ConstTensor(chosen, DType::i32, {pass.num_rows(), slots_}));
}

BalanceGradient MoeLayer::balance_gradient(const Pass& pass) {
  const int64_t ranges = std::ssize(range_offsets_) - 1;
  BalanceGradient balance{.offsets = offsets_there_.of(range_offsets_.data(), ranges + 1), .count = ranges};
  const double G = static_cast<double>(pass.granules_per_step);
  if (config_.z_loss_coef > 0) {
    z_factors_.resize(static_cast<size_t>(ranges));
    for (size_t i = 0, granule = 0; i < z_factors_.size(); ++i) {
      while (range_offsets_[i + 1] > pass.granules.offsets[granule + 1]) ++granule;
      z_factors_[i] =
          static_cast<float>(config_.z_loss_coef / (G * static_cast<double>(pass.granule_counted[granule])));
    }
    balance.z_factors = z_factors_there_.of(z_factors_.data(), ranges);
  }
  if (config_.aux_loss_coef > 0) {
    const Tensor dprobabilities = dprobabilities_.view(DType::f32, ranges, num_experts_);
    const double means = by_sequence() ? G * static_cast<double>(pass.sequences_per_granule) : G;
    double* all_sums = pooled() ? shared_.pooled_sums.f64() : sums_GW_;
    switch_loss_gradient({.dprobabilities_NE = dprobabilities.f32(),
                          .sums = by_sequence() ? sequence_sums_.f64() : sums_of(pass, all_sums),
                          .counts_E = config_.aux_loss_scope == "global" ? counts_before_there_E_ : nullptr,
                          .factor = config_.aux_loss_coef * (pooled() ? static_cast<double>(slots_) : 1.0) / means,
                          .num_ranges = ranges,
                          .num_experts = num_experts_,
                          .device = dprobabilities.device});
    balance.dprobabilities = dprobabilities.f32();
  }
  return balance;
}

double MoeLayer::aux_loss(int64_t granule) {
  const size_t g = static_cast<size_t>(granule);
  if (by_sequence()) return statistics_.aux_sums_G[g];
  const bool global = config_.aux_loss_scope == "global" && !previous_counts_.empty();
  return switch_loss(global ? std::span<const int64_t>(previous_counts_)
                            : part(statistics_.tokens_per_expert_GE, granule, num_experts_),
                     part(statistics_.probability_sums_GE, granule, num_experts_), statistics_.counted_G[g]);
}

double pooled_aux_loss(std::span<MoeLayer* const> layers, int64_t granule, int64_t slots) {
  const int64_t E = layers.front()->statistics().num_experts;
  double product = 0;
  int64_t choices = 0, rows = 0;
  for (int64_t e = 0; e < E; ++e) {
    int64_t count = 0;
    double probability_sum = 0;
    for (MoeLayer* layer : layers) {
      const LoadStatistics& load = layer->statistics();
      count += load.tokens_per_expert_GE[static_cast<size_t>(granule * E + e)];
      probability_sum += load.probability_sums_GE[static_cast<size_t>(granule * E + e)];
    }
    choices += count;
    product += static_cast<double>(count) * probability_sum;
  }
  for (MoeLayer* layer : layers) rows += layer->statistics().counted_G[static_cast<size_t>(granule)];
  if (choices == 0 || rows == 0) return 0;
  return static_cast<double>(slots * E) * product / (static_cast<double>(choices) * static_cast<double>(rows));
}

void MoeLayer::finish_step(std::span<const int64_t> tokens_per_expert) {
  if (expert_bias_) expert_bias_->update(tokens_per_expert);
  if (config_.aux_loss_scope == "global") previous_counts_.assign(tokens_per_expert.begin(), tokens_per_expert.end());
}

}  // namespace moe
