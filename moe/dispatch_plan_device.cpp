// DispatchPlan on a GPU: the lists of one rank are made there, those of several come there from the host.
#include <algorithm>
#include <utility>

#include "engine/core/device.h"
#include "moe/dispatch_plan.h"
#include "moe/expert_order.h"

namespace moe {

using engine::ConstTensor;
using engine::DType;

void DispatchPlan::order_on_device(const engine::nn::Pass& pass, ConstTensor topk_idx_TK) {
  const auto list = [](const engine::Buffer& buffer) { return reinterpret_cast<int32_t*>(buffer.data()); };
  const int64_t one_range[2] = {0, topk_idx_TK.rows()};
  const int64_t G = num_granules_ = std::max<int64_t>(1, pass.granules.count), E = num_local_experts_;
  auto* offsets = reinterpret_cast<int64_t*>(offsets_device_.data());
  auto* starts = readback_.place<int64_t>(E * (G + 1));
  expert_order({.tokens_N = list(tokens_device_),
                .slots_N = list(pairs_device_),
                .rows_TK = list(rows_device_),
                .offsets = offsets,
                .topk_idx_TK = topk_idx_TK,
                .num_experts = E});
  granule_starts({.starts = starts,
                  .tokens_N = list(tokens_device_),
                  .offsets = offsets,
                  .granules = pass.granules.count > 0 ? pass.granules.offsets : one_range,
                  .num_granules = G,
                  .num_experts = E,
                  .device = device_});
  readback_.start();
  starts_ = starts;
  lists_ = {
      .home_rows_TK = list(rows_device_), .row_tokens_R = list(tokens_device_), .row_pairs_R = list(pairs_device_)};
}

void DispatchPlan::take_numbers() {
  const int64_t G = num_granules_, E = num_local_experts_;
  readback_.wait();
  const int64_t* begins = readback_.host(starts_);
  granule_offsets_.assign(begins, begins + E * (G + 1));
  offsets_e_.resize(static_cast<size_t>(E + 1));
  for (int64_t e = 0; e < E; ++e)
    offsets_e_[static_cast<size_t>(e)] = granule_offsets_[static_cast<size_t>(e * (G + 1))];
  offsets_e_.back() = granule_offsets_.back();
}

// The choices in host memory; fetches what was placed before, too.
ConstTensor DispatchPlan::on_host(ConstTensor topk_idx_TK) {
  if (device_ == engine::Device::cpu) {
    readback_.fetch();
    return topk_idx_TK;
  }
  auto* choices = readback_.place<int32_t>(topk_idx_TK.num_elements());
  engine::device_copy(choices, topk_idx_TK.data, topk_idx_TK.num_elements() * 4);
  readback_.fetch();
  return ConstTensor(readback_.host(choices), DType::i32, {topk_idx_TK.rows(), slots_});
}

// On a GPU with one copy for all.
void DispatchPlan::publish_lists() {
  const std::pair<const int32_t*&, const std::vector<int32_t>&> lists[] = {{lists_.sent_tokens, sent_tokens_},
                                                                           {lists_.home_rows_TK, home_rows_TK_},
                                                                           {lists_.sent_places_TK, sent_places_TK_},
                                                                           {lists_.row_tokens_R, row_tokens_R_},
                                                                           {lists_.row_pairs_R, row_pairs_R_},
                                                                           {lists_.return_order, return_order_},
                                                                           {lists_.rows_MK, rows_MK_}};
  for (auto& [there, list] : lists) there = list.data();
  lists_.sent_slots = lists_.sent_tokens;
  if (device_ == engine::Device::cpu) return;
  all_lists_.clear();
  for (auto& [there, list] : lists) all_lists_.insert(all_lists_.end(), list.begin(), list.end());
  const int32_t* next = all_lists_there_.of(all_lists_.data(), std::ssize(all_lists_));
  for (auto& [there, list] : lists) there = std::exchange(next, next + list.size());
  lists_.sent_slots = lists_.sent_tokens;
}

}  // namespace moe
