#include "moe/dispatch_plan.h"

#include <algorithm>
#include <numeric>
#include <string_view>
#include <utility>

#include "engine/core/error.h"

namespace moe {

using engine::ConstTensor;
using engine::DType;
using engine::Tensor;

void RowOrder::reset(int64_t chunks, int64_t num_ranks) {
  ranks = num_ranks;
  counts.assign(static_cast<size_t>(chunks * ranks), 0);
  begins.assign(static_cast<size_t>(chunks) + 1, 0);
}

void RowOrder::finish(std::vector<int64_t>& places) {
  places.resize(counts.size());
  int64_t next = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    places[i] = next;
    next += counts[i];
    begins[i / static_cast<size_t>(ranks) + 1] = next;
  }
}

DispatchPlan::DispatchPlan(comm::Group& ep, std::vector<int32_t> rank_of_expert, int64_t slots, int64_t chunks,
                           engine::Device device)
    : ep_(ep),
      slots_(slots),
      chunks_(ep.size() == 1 ? 1 : chunks),
      rank_of_expert_(std::move(rank_of_expert)),
      device_(device),
      all_lists_there_(device),
      position_there_(device),
      row_tokens_there_(device),
      return_order_there_(device),
      readback_(device) {
  std::vector<int32_t> experts_of(static_cast<size_t>(ep.size()));
  for (int32_t rank : rank_of_expert_) local_expert_.push_back(experts_of[static_cast<size_t>(rank)]++);
  num_local_experts_ = experts_of[static_cast<size_t>(ep.rank())];
  for (size_t e = 0; e < rank_of_expert_.size(); ++e) {
    const int64_t count = experts_of[static_cast<size_t>(rank_of_expert_[e])];
    chunk_of_expert_.push_back(static_cast<int32_t>(chunk_of(local_expert_[e], count)));
    if (rank_of_expert_[e] == ep.rank()) chunk_of_local_.push_back(chunk_of_expert_.back());
  }
  const size_t ranks = static_cast<size_t>(ep.size());
  experts_in_.resize(static_cast<size_t>(chunks_) * ranks), position_E_.resize(rank_of_expert_.size());
  const auto part_of = [&](size_t e) {
    return static_cast<size_t>(chunk_of_expert_[e]) * ranks + static_cast<size_t>(rank_of_expert_[e]);
  };
  for (size_t e = 0; e < rank_of_expert_.size(); ++e) ++experts_in_[part_of(e)];
  std::vector<int32_t> next(experts_in_.size());
  std::exclusive_scan(experts_in_.begin(), experts_in_.end(), next.begin(), 0);
  for (size_t e = 0; e < rank_of_expert_.size(); ++e) position_E_[e] = next[part_of(e)]++;
  rows_sent_.resize(ranks), rows_received_.resize(ranks);
  granule_bases_.resize(ranks + 1);
  counts_sent_.resize(2 * ranks), counts_received_.resize(2 * ranks);
}

// The c with c n / C <= e < (c + 1) n / C.
int64_t DispatchPlan::chunk_of(int64_t local_expert, int64_t num_local) const {
  int64_t chunk = 0;
  while ((chunk + 1) * num_local / chunks_ <= local_expert) ++chunk;
  return chunk;
}

void DispatchPlan::reserve(int64_t max_rows, int64_t expected, int64_t taken_places) {
  if (orders_on_device() || taken_places > 0) {
    const int64_t pairs = max_rows * slots_;
    for (engine::Buffer* list : {&tokens_device_, &pairs_device_}) {
      *list = engine::Buffer(std::max(pairs, taken_places) * 4, device_);
    }
    rows_device_ = engine::Buffer(pairs * 4, device_);
  }
  if (orders_on_device()) {
    offsets_device_ = engine::Buffer((num_local_experts_ + 1) * 8, device_);
    return;
  }
  const int64_t sent = max_rows * std::min<int64_t>(slots_, ep_.size());
  if (device_ == engine::Device::cuda) {
    const int64_t all = 2 * max_rows * slots_ + sent + (3 + slots_) * expected;
    all_lists_.reserve(static_cast<size_t>(all));
    all_lists_there_.reserve(all);
  }
  home_rows_TK_.reserve(static_cast<size_t>(max_rows * slots_));
  for (std::vector<int32_t>* list : {&row_tokens_R_, &row_pairs_R_, &return_order_, &received_chunks_}) {
    list->reserve(static_cast<size_t>(expected));
  }
  for (std::vector<int32_t>* list : {&sent_tokens_, &tokens_by_rank_, &chunks_by_rank_}) {
    list->reserve(static_cast<size_t>(sent));
  }
  sent_info_.reserve(static_cast<size_t>(sent * (slots_ + 1)));
  received_info_.reserve(static_cast<size_t>(expected * (slots_ + 1)));
  if (ep_.size() == 1) return;
  rows_MK_.reserve(static_cast<size_t>(expected * slots_));
  sent_places_TK_.reserve(static_cast<size_t>(max_rows * slots_));
}

void DispatchPlan::start_route(const engine::nn::Pass& pass, ConstTensor topk_idx_TK, int64_t places) {
  places_ = device_ == engine::Device::cuda ? places : 0;
  even_.assign(static_cast<size_t>(chunks_), false);
  if (places_ > 0) return order_by_capacity(pass, topk_idx_TK);
  if (orders_on_device()) return order_on_device(pass, topk_idx_TK);
  ENSURE(device_ == engine::Device::cpu || std::string_view(ep_.transport()) == "nccl",
         "rows on GPUs go by NCCL, not by ", ep_.transport());
  list_sent(on_host(topk_idx_TK), pass);
  exchange(std::max<int64_t>(1, pass.granules.count));
  sort_received();
  publish_lists();
}

void DispatchPlan::finish_route() {
  if (orders_on_device() && places_ == 0) take_numbers();
}

void DispatchPlan::list_sent(ConstTensor topk_idx_TK, const engine::nn::Pass& pass) {
  const int64_t T = topk_idx_TK.rows();
  const int32_t* idx = topk_idx_TK.i32();
  sent_.reset(chunks_, ep_.size()), home_.reset(chunks_, ep_.size());
  sent_info_.clear(), tokens_by_rank_.clear(), chunks_by_rank_.clear();
  home_rows_TK_.assign(static_cast<size_t>(T * slots_), -1);
  auto each_pair_of = [&](int64_t t, int rank, auto visit) {
    for (int64_t k = 0; k < slots_; ++k) {
      const int32_t expert = idx[t * slots_ + k];
      if (expert >= 0 && rank_of_expert_[static_cast<size_t>(expert)] == rank) visit(k, static_cast<size_t>(expert));
    }
  };
  for (int rank = 0; rank < ep_.size(); ++rank) {
    const size_t first = tokens_by_rank_.size();
    int32_t granule = 0;
    for (int64_t t = 0; t < T; ++t) {
      while (granule + 1 < pass.granules.count && t >= pass.granules.offsets[granule + 1]) ++granule;
      int32_t first_chunk = static_cast<int32_t>(chunks_);
      each_pair_of(t, rank, [&](int64_t, size_t expert) {
        first_chunk = std::min(first_chunk, chunk_of_expert_[expert]);
        ++home_.count(chunk_of_expert_[expert], rank);
      });
      if (first_chunk == chunks_) continue;
      ++sent_.count(first_chunk, rank);
      tokens_by_rank_.push_back(static_cast<int32_t>(t));
      chunks_by_rank_.push_back(first_chunk);
      const size_t info = sent_info_.size();
      sent_info_.resize(info + static_cast<size_t>(slots_), -1);
      each_pair_of(t, rank, [&](int64_t k, size_t expert) {
        sent_info_[info + static_cast<size_t>(k)] = local_expert_[expert];
      });
      sent_info_.push_back(granule);
    }
    rows_sent_[static_cast<size_t>(rank)] = static_cast<int64_t>(tokens_by_rank_.size() - first);
  }
  sent_.finish(next_rows_), home_.finish(next_pairs_);
  sent_tokens_.resize(tokens_by_rank_.size());
  if (ep_.size() > 1) sent_places_TK_.assign(static_cast<size_t>(T * slots_), -1);
  size_t i = 0;
  for (int rank = 0; rank < ep_.size(); ++rank) {
    for (const size_t end = i + static_cast<size_t>(rows_sent_[static_cast<size_t>(rank)]); i < end; ++i) {
      const int64_t t = tokens_by_rank_[i];
      const int64_t place = next_rows_[static_cast<size_t>(chunks_by_rank_[i] * ep_.size() + rank)]++;
      sent_tokens_[static_cast<size_t>(place)] = static_cast<int32_t>(t);
      each_pair_of(t, rank, [&](int64_t k, size_t expert) {
        int64_t& home = next_pairs_[static_cast<size_t>(chunk_of_expert_[expert] * ep_.size() + rank)];
        home_rows_TK_[static_cast<size_t>(t * slots_ + k)] = static_cast<int32_t>(home++);
        if (ep_.size() > 1) {
          sent_places_TK_[static_cast<size_t>(t * slots_ + k)] = static_cast<int32_t>(place * slots_ + k);
        }
      });
    }
  }
}

void DispatchPlan::exchange(int64_t granules) {
  const int64_t ranks = ep_.size(), width = slots_ + 1;
  for (size_t r = 0; r < static_cast<size_t>(ranks); ++r) {
    counts_sent_[2 * r] = rows_sent_[r], counts_sent_[2 * r + 1] = granules;
  }
  ep_.all_to_all(Tensor(counts_received_.data(), DType::i64, {2 * ranks}),
                 ConstTensor(counts_sent_.data(), DType::i64, {2 * ranks}))
      .wait();
  granule_bases_[0] = 0;
  for (size_t r = 0; r < static_cast<size_t>(ranks); ++r) {
    rows_received_[r] = counts_received_[2 * r];
    granule_bases_[r + 1] = granule_bases_[r] + counts_received_[2 * r + 1];
  }
  num_granules_ = granule_bases_.back();
  if (ranks == 1) return std::swap(received_info_, sent_info_);
  const int64_t sent = static_cast<int64_t>(tokens_by_rank_.size());
  const int64_t received = std::accumulate(rows_received_.begin(), rows_received_.end(), int64_t{0});
  received_info_.resize(static_cast<size_t>(received * width));
  ep_.all_to_all_v(Tensor(received_info_.data(), DType::i32, {received, width}), rows_received_,
                   ConstTensor(sent_info_.data(), DType::i32, {sent, width}), rows_sent_)
      .wait();
}

// In the order of ranks and tokens: visit(rank, number of the token, slot, local expert, granule).
template <class Visit>
void DispatchPlan::each_received_pair(Visit visit) const {
  const int64_t width = slots_ + 1;
  int64_t m = 0;
  for (size_t rank = 0; rank < rows_received_.size(); ++rank) {
    for (const int64_t end = m + rows_received_[rank]; m < end; ++m) {
      const int32_t* info = received_info_.data() + m * width;
      for (int64_t k = 0; k < slots_; ++k) {
        if (info[k] >= 0) {
          visit(static_cast<int64_t>(rank), m, k, static_cast<int64_t>(info[k]), granule_bases_[rank] + info[slots_]);
        }
      }
    }
  }
}

// Counting sort of the pairs by expert and granule, in which they keep the order of tokens; and where each token lies
// among those received, and each result among those that go back.
void DispatchPlan::sort_received() {
  const int64_t G = num_granules_, ranks = ep_.size();
  granule_offsets_.assign(static_cast<size_t>(num_local_experts_ * (G + 1)), 0);
  offsets_e_.assign(static_cast<size_t>(num_local_experts_ + 1), 0);
  // offsets[e][g + 1] counts, then becomes where granule g of expert e begins, and at last where it ends
  auto offset = [&](int64_t e, int64_t g) -> int64_t& {
    return granule_offsets_[static_cast<size_t>(e * (G + 1) + g)];
  };
  const int64_t M = std::accumulate(rows_received_.begin(), rows_received_.end(), int64_t{0});
  received_.reset(chunks_, ranks), returned_.reset(chunks_, ranks);
  received_chunks_.assign(static_cast<size_t>(M), static_cast<int32_t>(chunks_));
  each_received_pair([&](int64_t rank, int64_t m, int64_t, int64_t e, int64_t g) {
    ++offset(e, g + 1);
    const int32_t chunk = chunk_of_local_[static_cast<size_t>(e)];
    ++returned_.count(chunk, rank);
    int32_t& first = received_chunks_[static_cast<size_t>(m)];
    first = std::min(first, chunk);
  });
  size_t m = 0;
  for (int64_t rank = 0; rank < ranks; ++rank) {
    for (int64_t i = 0; i < rows_received_[static_cast<size_t>(rank)]; ++i)
      ++received_.count(received_chunks_[m++], rank);
  }
  received_.finish(next_rows_), returned_.finish(next_pairs_);
  int64_t next = 0;
  for (int64_t e = 0; e < num_local_experts_; ++e) {
    offset(e, 0) = offsets_e_[static_cast<size_t>(e)] = next;
    for (int64_t g = 1; g <= G; ++g) {
      const int64_t count = offset(e, g);
      offset(e, g) = next;
      next += count;
    }
  }
  offsets_e_.back() = next;
  for (std::vector<int32_t>* list : {&row_tokens_R_, &row_pairs_R_, &return_order_}) {
    list->resize(static_cast<size_t>(next));
  }
  if (ranks > 1) rows_MK_.assign(static_cast<size_t>(M * slots_), -1);
  int64_t last = -1, place = 0;
  each_received_pair([&](int64_t rank, int64_t token, int64_t k, int64_t e, int64_t g) {
    if (token != last) {
      last = token;
      place = next_rows_[static_cast<size_t>(received_chunks_[static_cast<size_t>(token)] * ranks + rank)]++;
    }
    const int64_t row = offset(e, g + 1)++;
    row_tokens_R_[static_cast<size_t>(row)] = static_cast<int32_t>(place);
    row_pairs_R_[static_cast<size_t>(row)] = static_cast<int32_t>(place * slots_ + k);
    int64_t& back = next_pairs_[static_cast<size_t>(chunk_of_local_[static_cast<size_t>(e)] * ranks + rank)];
    return_order_[static_cast<size_t>(back++)] = static_cast<int32_t>(row);
    if (ranks > 1) rows_MK_[static_cast<size_t>(place * slots_ + k)] = static_cast<int32_t>(row);
  });
  if (ranks > 1) return;
  // on one rank results stay where they are: (t, k) is found at its expert's row
  for (int32_t& row : home_rows_TK_) {
    if (row >= 0) row = return_order_[static_cast<size_t>(row)];
  }
  for (size_t r = 0; r < row_tokens_R_.size(); ++r) {
    const int32_t token = sent_tokens_[static_cast<size_t>(row_tokens_R_[r])];
    row_pairs_R_[r] += (token - row_tokens_R_[r]) * static_cast<int32_t>(slots_);
    row_tokens_R_[r] = token;
  }
}

}  // namespace moe
