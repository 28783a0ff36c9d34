// DispatchPlan on a GPU where experts have a capacity: all numbers follow from the config.
#include <algorithm>
#include <numeric>

#include "engine/core/error.h"
#include "moe/capacity_order.h"
#include "moe/dispatch_plan.h"

namespace moe {

using engine::ConstTensor;

void DispatchPlan::order_by_capacity(const engine::nn::Pass& pass, ConstTensor topk_idx_TK) {
  const auto list = [](const engine::Buffer& buffer) { return reinterpret_cast<int32_t*>(buffer.data()); };
  const int64_t experts = std::ssize(rank_of_expert_), taken = experts * pass.granules.count * places_;
  ENSURE(taken * 4 <= tokens_device_.bytes() && topk_idx_TK.num_elements() * 4 <= rows_device_.bytes(),
         "there is no memory for ", taken, " places");
  if (position_there_E_ == nullptr) position_there_E_ = position_there_.of(position_E_.data(), experts);
  capacity_order({.tokens_N = list(tokens_device_),
                  .slots_N = list(pairs_device_),
                  .rows_TK = list(rows_device_),
                  .topk_idx_TK = topk_idx_TK,
                  .position_E = position_there_E_,
                  .granules = pass.granules,
                  .places = places_,
                  .num_experts = experts});
  number_places(pass);
  lists_ = {
      .home_rows_TK = list(rows_device_), .row_tokens_R = list(tokens_device_), .row_pairs_R = list(pairs_device_)};
  if (ep_.size() > 1) list_places(pass);
}

// How many rows there are, and whose: on one rank as many as places.
void DispatchPlan::number_places(const engine::nn::Pass& pass) {
  const int64_t ranks = ep_.size(), E = num_local_experts_;
  const std::span<const int64_t> granules = ranks == 1 ? std::span(&pass.granules.count, 1) : pass.ep_granules;
  ENSURE(std::ssize(granules) == ranks, "a pass tells the granules of ", granules.size(), " ranks of ", ranks);
  const int64_t G = std::accumulate(granules.begin(), granules.end(), int64_t{0});
  num_granules_ = std::max<int64_t>(1, G);
  offsets_e_.resize(static_cast<size_t>(E + 1));
  granule_offsets_.resize(static_cast<size_t>(E * (num_granules_ + 1)));
  for (int64_t e = 0; e < E; ++e) {
    for (int64_t g = 0; g <= num_granules_; ++g) {
      granule_offsets_[static_cast<size_t>(e * (num_granules_ + 1) + g)] = (e * G + std::min(g, G)) * places_;
    }
  }
  for (int64_t e = 0; e <= E; ++e) offsets_e_[static_cast<size_t>(e)] = e * G * places_;
  if (ranks == 1) return;
  sent_.reset(chunks_, ranks), received_.reset(chunks_, ranks);
  for (int64_t chunk = 0; chunk < chunks_; ++chunk) {
    const int64_t* experts = experts_in_.data() + chunk * ranks;
    const auto same = [](const int64_t* first, const int64_t* last) {
      return std::all_of(first, last, [=](int64_t count) { return count == *first; });
    };
    even_[static_cast<size_t>(chunk)] =
        same(experts, experts + ranks) && same(granules.data(), granules.data() + granules.size());
    for (int64_t rank = 0; rank < ranks; ++rank) {
      sent_.count(chunk, rank) = experts[rank] * pass.granules.count * places_;
      received_.count(chunk, rank) = experts[ep_.rank()] * granules[static_cast<size_t>(rank)] * places_;
    }
  }
  sent_.finish(next_rows_), received_.finish(next_rows_);
  home_ = sent_, returned_ = received_;
}

// Rows come by chunk, rank, expert, granule and place, and lie by expert, rank, granule and place.
void DispatchPlan::list_places(const engine::nn::Pass& pass) {
  if (!std::ranges::equal(listed_granules_, pass.ep_granules)) {
    listed_granules_.assign(pass.ep_granules.begin(), pass.ep_granules.end());
    const size_t rows = static_cast<size_t>(received_.total());
    row_tokens_R_.resize(rows), return_order_.resize(rows);
    size_t token = 0;
    for (int64_t chunk = 0; chunk < chunks_; ++chunk) {
      int64_t before = 0;  // granules of lower ranks
      for (int64_t granules : listed_granules_) {
        for (int64_t e = first_expert(chunk); e < first_expert(chunk + 1); ++e) {
          int64_t row = granule_offsets_[static_cast<size_t>(e * (num_granules_ + 1) + before)];
          for (int64_t i = 0; i < granules * places_; ++i, ++row, ++token) {
            return_order_[token] = static_cast<int32_t>(row);
            row_tokens_R_[static_cast<size_t>(row)] = static_cast<int32_t>(token);
          }
        }
        before += granules;
      }
    }
    listed_tokens_R_ = row_tokens_there_.of(row_tokens_R_.data(), received_.total());
    listed_order_ = return_order_there_.of(return_order_.data(), received_.total());
  }
  const int32_t* rows_TK = lists_.home_rows_TK;
  lists_ = {.sent_tokens = lists_.row_tokens_R,
            .sent_slots = lists_.row_pairs_R,
            .home_rows_TK = rows_TK,
            .sent_places_TK = rows_TK,
            .row_tokens_R = listed_tokens_R_,
            .row_pairs_R = listed_tokens_R_,
            .return_order = listed_order_,
            .rows_MK = listed_order_};
}

}  // namespace moe
