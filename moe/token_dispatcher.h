// TokenDispatcher: brings tokens to the ranks that hold their experts, and results home.
//
// dispatch sends one row per (token, rank) and expands it where it arrives; combine sends one row per (token, slot)
// and adds them at home in slot order. Adding two slots of a token on the rank that holds both would save traffic,
// but the order of the sum would then depend on the layout. The gradient of combine is a dispatch, the gradient of
// dispatch a combine without weights.
//
// Rows at the experts are sorted by expert, then by token: ranks of a group hold granules in increasing order, so
// the rows of lower ranks come first. A group of one sends nothing: its rows are the pass's rows.
#pragma once

#include <cstdint>
#include <vector>

#include "comm/parallel_groups.h"
#include "engine/core/growing_buffer.h"
#include "engine/nn/layer.h"

namespace moe {

using engine::ConstTensor;
using engine::Tensor;

class TokenDispatcher {
 public:
  // rank_of_expert: the rank of ep that holds each expert; none: consecutive experts on every rank.
  TokenDispatcher(comm::Group& ep, int64_t num_experts, int64_t slots, int64_t hidden_size,
                  std::vector<int32_t> rank_of_expert = {});

  // Memory for passes of max_rows rows on every rank and an even load times `headroom`; one rank needs no more.
  void reserve(int64_t max_rows, double headroom);

  // The routing of one pass; collective. Afterwards num_rows(), offsets() and granule_offsets() describe the rows
  // of this rank's experts. A topk_idx of -1 goes nowhere.
  void route(const engine::nn::Pass& pass, ConstTensor topk_idx_TK);
  int64_t num_rows() const { return num_rows_; }                // R
  const int64_t* offsets() const { return offsets_e_.data(); }  // [e + 1]
  int64_t num_local_experts() const { return num_local_experts_; }
  const int64_t* granule_offsets() const { return granule_offsets_.data(); }  // [e * (num_granules() + 1)]
  int64_t num_granules() const { return num_granules_; }                      // of all ranks in this pass

  // expert_in[r] = x of row r's token
  void dispatch(ConstTensor x_TD, Tensor expert_in_RD);
  // y[t] = sum_k weights[t,k] * expert_out of (t, k)
  void combine(ConstTensor expert_out_RD, ConstTensor weights_TK, Tensor y_TD);

  // dexpert_out[r] = weight * dy of row r's token, and dweights[t,k] = <dy[t], expert_out of (t, k)>
  void combine_backward(ConstTensor dy_TD, ConstTensor weights_TK, ConstTensor expert_out_RD, Tensor dexpert_out_RD,
                        Tensor dweights_TK);
  // dx[t] = sum_k dexpert_in of (t, k)
  void dispatch_backward(ConstTensor dexpert_in_RD, Tensor dx_TD);

  int64_t growths() const;
  int64_t bytes_sent() const { return bytes_sent_; }  // of rows, to other ranks, ever
  int64_t bytes() const {
    return send_buffer_.bytes() + recv_buffer_.bytes() + return_buffer_.bytes() + home_buffer_.bytes() +
           weights_send_.bytes() + weights_recv_.bytes();
  }

 private:
  void plan_sends(ConstTensor topk_idx_TK, const engine::nn::Pass& pass);
  void sort_received();
  // Rows of `rows` for other ranks, counted.
  void count_sent(ConstTensor rows, const std::vector<int64_t>& rows_by_rank);
  // Rows of x for every (token, rank) in sending order, exchanged; on one rank x itself.
  ConstTensor exchange_tokens(ConstTensor x_TD);
  // Rows by (token, slot) back home; on one rank the rows themselves.
  ConstTensor return_rows(ConstTensor rows_RD);

  comm::Group& ep_;
  int64_t num_experts_, slots_, hidden_size_, num_local_experts_;
  std::vector<int32_t> rank_of_expert_, local_expert_;  // and the number of an expert among those of its rank

  // home side
  std::vector<int32_t> sent_tokens_;             // by destination rank, then token
  std::vector<int32_t> home_rows_TK_;            // where (t, k) arrives at home, -1: dropped
  std::vector<int64_t> send_rows_, send_slots_;  // per rank: tokens, (token, slot) pairs

  // expert side: each token received has K local experts (or -1) and its granule's number among those of the pass
  std::vector<int32_t> sent_info_, received_info_;
  std::vector<int64_t> recv_rows_, recv_slots_;
  std::vector<int64_t> counts_sent_, counts_received_;  // per rank: tokens, pairs, granules
  std::vector<int32_t> row_tokens_R_;                   // received token of each row
  std::vector<int32_t> row_slots_R_;                    // and its slot
  std::vector<int32_t> return_order_;                   // rows in the order they go home
  std::vector<int64_t> offsets_e_, granule_offsets_, granule_bases_;
  int64_t num_rows_ = 0, num_granules_ = 0, num_received_ = 0;
  int64_t bytes_sent_ = 0;

  engine::GrowingBuffer send_buffer_, recv_buffer_, return_buffer_, home_buffer_;
  engine::GrowingBuffer weights_send_, weights_recv_;
  std::vector<float> row_scales_R_;
};

}  // namespace moe
