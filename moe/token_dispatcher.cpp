#include "moe/token_dispatcher.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "engine/core/error.h"
#include "moe/expert_placement.h"
#include "moe/permute.h"

namespace moe {

using engine::DType;

namespace {

int64_t sum(const std::vector<int64_t>& counts) {
  return std::accumulate(counts.begin(), counts.end(), int64_t{0});
}

}  // namespace

TokenDispatcher::TokenDispatcher(comm::Group& ep, int64_t num_experts, int64_t slots, int64_t hidden_size,
                                 std::vector<int32_t> rank_of_expert)
    : ep_(ep),
      num_experts_(num_experts),
      slots_(slots),
      hidden_size_(hidden_size),
      rank_of_expert_(rank_of_expert.empty() ? consecutive_experts(num_experts, ep.size())
                                             : std::move(rank_of_expert)) {
  const size_t ranks = static_cast<size_t>(ep.size());
  std::vector<int32_t> experts_of(ranks);
  for (int32_t rank : rank_of_expert_) local_expert_.push_back(experts_of[static_cast<size_t>(rank)]++);
  num_local_experts_ = experts_of[static_cast<size_t>(ep.rank())];
  send_rows_.resize(ranks), send_slots_.resize(ranks), recv_rows_.resize(ranks), recv_slots_.resize(ranks);
  granule_bases_.resize(ranks + 1);
  counts_sent_.resize(3 * ranks), counts_received_.resize(3 * ranks);
}

void TokenDispatcher::reserve(int64_t max_rows, double headroom) {
  const int64_t ranks = ep_.size();
  home_rows_TK_.reserve(static_cast<size_t>(max_rows * slots_));
  const double even = static_cast<double>(max_rows * slots_) * (ranks == 1 ? 1.0 : headroom);
  const int64_t expected = static_cast<int64_t>(even);
  for (std::vector<int32_t>* list : {&row_tokens_R_, &row_slots_R_, &return_order_}) {
    list->reserve(static_cast<size_t>(expected));
  }
  row_scales_R_.reserve(static_cast<size_t>(expected));
  sent_tokens_.reserve(static_cast<size_t>(max_rows * std::min(slots_, ranks)));
  sent_info_.reserve(static_cast<size_t>(max_rows * std::min(slots_, ranks) * (slots_ + 1)));
  if (ranks == 1) return;
  received_info_.reserve(static_cast<size_t>(expected * (slots_ + 1)));
  send_buffer_.reserve(DType::f32, max_rows * std::min(slots_, ranks), hidden_size_);
  home_buffer_.reserve(DType::f32, max_rows * slots_, hidden_size_);
  recv_buffer_.reserve(DType::f32, expected, hidden_size_);
  return_buffer_.reserve(DType::f32, expected, hidden_size_);
  weights_send_.reserve(DType::f32, max_rows * std::min(slots_, ranks), slots_);
  weights_recv_.reserve(DType::f32, expected, slots_);
}

int64_t TokenDispatcher::growths() const {
  return send_buffer_.growths() + recv_buffer_.growths() + return_buffer_.growths() + home_buffer_.growths() +
         weights_send_.growths() + weights_recv_.growths();
}

// Lists what goes to each rank: tokens in order, with the local experts of their slots.
void TokenDispatcher::plan_sends(ConstTensor topk_idx_TK, const engine::nn::Pass& pass) {
  const int64_t T = topk_idx_TK.rows();
  const int32_t* idx = topk_idx_TK.i32();
  sent_tokens_.clear();
  sent_info_.clear();
  home_rows_TK_.assign(static_cast<size_t>(T * slots_), -1);
  int32_t next_home_row = 0;
  for (int rank = 0; rank < ep_.size(); ++rank) {
    const size_t first_token = sent_tokens_.size();
    const int32_t first_home_row = next_home_row;
    int32_t granule = 0;
    for (int64_t t = 0; t < T; ++t) {
      while (granule + 1 < pass.granules.count && t >= pass.granules.offsets[granule + 1]) ++granule;
      bool goes = false;
      for (int64_t k = 0; k < slots_; ++k) {
        const int32_t expert = idx[t * slots_ + k];
        if (expert < 0 || rank_of_expert_[static_cast<size_t>(expert)] != rank) continue;
        goes = true;
        home_rows_TK_[static_cast<size_t>(t * slots_ + k)] = next_home_row++;
      }
      if (!goes) continue;
      sent_tokens_.push_back(static_cast<int32_t>(t));
      for (int64_t k = 0; k < slots_; ++k) {
        const int32_t expert = idx[t * slots_ + k];
        const bool here = expert >= 0 && rank_of_expert_[static_cast<size_t>(expert)] == rank;
        sent_info_.push_back(here ? local_expert_[static_cast<size_t>(expert)] : -1);
      }
      sent_info_.push_back(granule);
    }
    send_rows_[static_cast<size_t>(rank)] = static_cast<int64_t>(sent_tokens_.size() - first_token);
    send_slots_[static_cast<size_t>(rank)] = next_home_row - first_home_row;
  }
}

void TokenDispatcher::route(const engine::nn::Pass& pass, ConstTensor topk_idx_TK) {
  plan_sends(topk_idx_TK, pass);
  const int64_t ranks = ep_.size();
  const int64_t granules = std::max<int64_t>(1, pass.granules.count);
  if (ranks == 1) {
    recv_rows_ = send_rows_;
    recv_slots_ = send_slots_;
    std::swap(received_info_, sent_info_);
    granule_bases_ = {0, granules};
  } else {
    std::vector<int64_t>&mine = counts_sent_, &theirs = counts_received_;
    for (size_t r = 0; r < static_cast<size_t>(ranks); ++r) {
      mine[3 * r] = send_rows_[r], mine[3 * r + 1] = send_slots_[r], mine[3 * r + 2] = granules;
    }
    ep_.all_to_all(Tensor(theirs.data(), DType::i64, {3 * ranks}), ConstTensor(mine.data(), DType::i64, {3 * ranks}))
        .wait();
    granule_bases_[0] = 0;
    for (size_t r = 0; r < static_cast<size_t>(ranks); ++r) {
      recv_rows_[r] = theirs[3 * r], recv_slots_[r] = theirs[3 * r + 1];
      granule_bases_[r + 1] = granule_bases_[r] + theirs[3 * r + 2];
    }
    const int64_t width = slots_ + 1;
    received_info_.resize(static_cast<size_t>(sum(recv_rows_) * width));
    ep_.all_to_all_v(Tensor(received_info_.data(), DType::i32, {sum(recv_rows_), width}), recv_rows_,
                     ConstTensor(sent_info_.data(), DType::i32, {sum(send_rows_), width}), send_rows_)
        .wait();
  }
  num_granules_ = granule_bases_.back();
  num_received_ = sum(recv_rows_);
  num_rows_ = sum(recv_slots_);
  sort_received();
}

// Counting sort of the (token, slot) pairs by expert and granule; within them they keep the order of tokens.
void TokenDispatcher::sort_received() {
  const int64_t G = num_granules_, width = slots_ + 1;
  granule_offsets_.assign(static_cast<size_t>(num_local_experts_ * (G + 1)), 0);
  offsets_e_.assign(static_cast<size_t>(num_local_experts_ + 1), 0);
  auto each_pair = [&](auto visit) {
    int64_t m = 0;
    for (size_t rank = 0; rank < recv_rows_.size(); ++rank) {
      for (int64_t end = m + recv_rows_[rank]; m < end; ++m) {
        const int32_t* info = received_info_.data() + m * width;
        for (int64_t k = 0; k < slots_; ++k) {
          if (info[k] >= 0) visit(m, k, static_cast<int64_t>(info[k]), granule_bases_[rank] + info[slots_]);
        }
      }
    }
  };
  // offsets[e][g + 1] counts, then becomes where granule g of expert e begins, and at last where it ends
  auto offset = [&](int64_t e, int64_t g) -> int64_t& {
    return granule_offsets_[static_cast<size_t>(e * (G + 1) + g)];
  };
  each_pair([&](int64_t, int64_t, int64_t e, int64_t g) { ++offset(e, g + 1); });
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
  row_tokens_R_.resize(static_cast<size_t>(num_rows_));
  row_slots_R_.resize(static_cast<size_t>(num_rows_));
  return_order_.clear();
  each_pair([&](int64_t m, int64_t k, int64_t e, int64_t g) {
    const int64_t row = offset(e, g + 1)++;
    row_tokens_R_[static_cast<size_t>(row)] = static_cast<int32_t>(m);
    row_slots_R_[static_cast<size_t>(row)] = static_cast<int32_t>(k);
    return_order_.push_back(static_cast<int32_t>(row));
  });
  if (ep_.size() > 1) return;
  // on one rank results stay where they are: (t, k) is found at its expert's row
  for (int32_t& row : home_rows_TK_) {
    if (row >= 0) row = return_order_[static_cast<size_t>(row)];
  }
  for (int32_t& token : row_tokens_R_) token = sent_tokens_[static_cast<size_t>(token)];
}

void TokenDispatcher::count_sent(ConstTensor rows, const std::vector<int64_t>& rows_by_rank) {
  const int64_t others = sum(rows_by_rank) - rows_by_rank[static_cast<size_t>(ep_.rank())];
  bytes_sent_ += others * rows.columns() * engine::dtype_bytes(rows.dtype);
}

ConstTensor TokenDispatcher::exchange_tokens(ConstTensor x_TD) {
  if (ep_.size() == 1) return x_TD;
  const int64_t sent = sum(send_rows_);
  Tensor send = send_buffer_.view(DType::f32, sent, hidden_size_);
  Tensor recv = recv_buffer_.view(DType::f32, num_received_, hidden_size_);
  permute({.y_ND = send, .x_TD = x_TD, .rows = sent_tokens_.data()});
  count_sent(send, send_rows_);
  ep_.all_to_all_v(recv, recv_rows_, send, send_rows_).wait();
  return recv;
}

ConstTensor TokenDispatcher::return_rows(ConstTensor rows_RD) {
  if (ep_.size() == 1) return rows_RD;
  Tensor out = return_buffer_.view(DType::f32, num_rows_, hidden_size_);
  Tensor home = home_buffer_.view(DType::f32, sum(send_slots_), hidden_size_);
  permute({.y_ND = out, .x_TD = rows_RD, .rows = return_order_.data()});
  count_sent(out, recv_slots_);
  ep_.all_to_all_v(home, send_slots_, out, recv_slots_).wait();
  return home;
}

void TokenDispatcher::dispatch(ConstTensor x_TD, Tensor expert_in_RD) {
  permute({.y_ND = expert_in_RD, .x_TD = exchange_tokens(x_TD), .rows = row_tokens_R_.data()});
}

void TokenDispatcher::combine(ConstTensor expert_out_RD, ConstTensor weights_TK, Tensor y_TD) {
  ConstTensor back_ND = return_rows(expert_out_RD);
  unpermute({.y_TD = y_TD,
             .x_ND = back_ND,
             .rows_TK = home_rows_TK_.data(),
             .weights_TK = weights_TK.f32(),
             .num_slots = slots_});
}

void TokenDispatcher::combine_backward(ConstTensor dy_TD, ConstTensor weights_TK, ConstTensor expert_out_RD,
                                       Tensor dexpert_out_RD, Tensor dweights_TK) {
  unpermute_weights_backward({.dweights_TK = dweights_TK,
                              .dy_TD = dy_TD,
                              .x_ND = return_rows(expert_out_RD),
                              .rows_TK = home_rows_TK_.data()});
  ConstTensor weights_MK = weights_TK;
  if (ep_.size() > 1) {
    const int64_t sent = sum(send_rows_);
    Tensor send = weights_send_.view(DType::f32, sent, slots_);
    Tensor recv = weights_recv_.view(DType::f32, num_received_, slots_);
    permute({.y_ND = send, .x_TD = weights_TK, .rows = sent_tokens_.data()});
    count_sent(send, send_rows_);
    ep_.all_to_all_v(recv, recv_rows_, send, send_rows_).wait();
    weights_MK = recv;
  }
  row_scales_R_.resize(static_cast<size_t>(num_rows_));
  for (size_t r = 0; r < row_scales_R_.size(); ++r) {
    row_scales_R_[r] = weights_MK.f32()[row_tokens_R_[r] * slots_ + row_slots_R_[r]];
  }
  permute({.y_ND = dexpert_out_RD,
           .x_TD = exchange_tokens(dy_TD),
           .rows = row_tokens_R_.data(),
           .scales = row_scales_R_.data()});
}

void TokenDispatcher::dispatch_backward(ConstTensor dexpert_in_RD, Tensor dx_TD) {
  unpermute({.y_TD = dx_TD, .x_ND = return_rows(dexpert_in_RD), .rows_TK = home_rows_TK_.data(), .num_slots = slots_});
}

}  // namespace moe
