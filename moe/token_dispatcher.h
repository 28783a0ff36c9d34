// TokenDispatcher: brings tokens to the ranks that hold their experts, and results home.
//
// dispatch sends one row per (token, rank) and expands it where it arrives; combine sends one row per (token, slot)
// and adds them at home in slot order. Adding two slots of a token on the rank that holds both would save traffic,
// but the order of the sum would then depend on the layout. The gradient of combine is a dispatch, the gradient of
// dispatch a combine without weights. The gradients of weights are taken where both of their factors are, at the
// experts, and sent home as numbers.
//
// Rows at the experts are sorted by expert, then by token: ranks of a group hold granules in increasing order, so
// the rows of lower ranks come first. A group of one sends nothing: its rows are the pass's rows.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "comm/group.h"
#include "engine/core/growing_buffer.h"
#include "engine/nn/layer.h"
#include "moe/dispatch_plan.h"

namespace moe {

using engine::ConstTensor;
using engine::Tensor;

class TokenDispatcher {
 public:
  // rank_of_expert: the rank of ep that holds each expert; none: consecutive experts on every rank. Rows travel in
  // `chunks`, so that experts compute on one while the next is on its way.
  TokenDispatcher(comm::Group& ep, int64_t num_experts, int64_t slots, int64_t hidden_size,
                  std::vector<int32_t> rank_of_expert = {}, int64_t chunks = 1,
                  engine::Device device = engine::Device::cpu, engine::DType storage = engine::DType::f32);

  // What a pass may come to: so many rows on every rank and, where experts have places (dispatch_plan.h), so many
  // places of each.
  struct PassSize {
    int64_t max_rows = 0;
    double headroom = 1;  // over an even load
    int64_t places = 0;   // of an expert, for all granules of a rank
  };
  // Rows of this rank's experts with an even load times the headroom, or of all their places; one rank gets what it
  // has.
  int64_t expected_rows(const PassSize& size) const;
  // Memory for that.
  void reserve(const PassSize& size);

  // The routing of one pass; collective. Afterwards num_rows(), offsets() and granule_offsets() describe the rows
  // of this rank's experts. A topk_idx of -1 goes nowhere. What was placed in readback() before has come to the host.
  // With `places` experts on a GPU have so many for each granule, and the host does not wait: see dispatch_plan.h.
  void route(const engine::nn::Pass& pass, ConstTensor topk_idx_TK) { start_route(pass, topk_idx_TK), finish_route(); }
  // On a GPU the numbers come to the host between the two. Where can_permute_early(), the forward pass may already take
  // its rows: expert_in has room for T * K, and those behind the last are zeros. finish_dispatch() then has nothing to
  // do.
  void start_route(const engine::nn::Pass& pass, ConstTensor topk_idx_TK, int64_t places = 0) {
    plan_.start_route(pass, topk_idx_TK, places);
  }
  void finish_route() { plan_.finish_route(); }
  // Of this rank's experts in a pass, with so many of each for every granule.
  int64_t num_places(const engine::nn::Pass& pass, int64_t places) const;
  bool can_permute_early() const { return plan_.orders_on_device() && plan_.waits(); }  // after start_route()
  void permute_early(ConstTensor x_TD, Tensor expert_in_ND);
  engine::Readback& readback() { return plan_.readback(); }
  int64_t num_rows() const { return plan_.num_rows(); }                       // R
  const int64_t* offsets() const { return plan_.offsets(); }                  // [e + 1]
  const int64_t* granule_offsets() const { return plan_.granule_offsets(); }  // [e * (num_granules() + 1)]
  int64_t num_granules() const { return plan_.num_granules(); }               // of all ranks in this pass
  int64_t num_local_experts() const { return plan_.num_local_experts(); }
  int64_t num_chunks() const { return plan_.num_chunks(); }
  // The local experts of a chunk are [first_expert(chunk), first_expert(chunk + 1)), and their rows lie together.
  int64_t first_expert(int64_t chunk) const { return plan_.first_expert(chunk); }

  // expert_in[r] = x of row r's token: begun for all chunks, finished one by one in order.
  void start_dispatch(ConstTensor x_TD);
  void finish_dispatch(int64_t chunk, Tensor expert_in_RD);
  // y[t] = sum_k weights[t,k] * expert_out of (t, k): begun chunk by chunk in order.
  void start_combine(int64_t chunk, ConstTensor expert_out_RD);
  void finish_combine(ConstTensor weights_TK, Tensor y_TD);

  // dexpert_out[r] = weight * dy of row r's token, chunk by chunk, and when nothing else is under way
  // dweights[t,k] = <dy[t], expert_out of (t, k)>.
  void start_combine_backward(ConstTensor dy_TD, ConstTensor weights_TK);
  void finish_combine_backward(int64_t chunk, Tensor dexpert_out_RD);
  void weights_backward(ConstTensor dy_TD, ConstTensor expert_out_RD, Tensor dweights_TK);
  // dx[t] = sum_k dexpert_in of (t, k)
  void start_dispatch_backward(int64_t chunk, ConstTensor dexpert_in_RD) { start_combine(chunk, dexpert_in_RD); }
  void finish_dispatch_backward(Tensor dx_TD);

  int64_t growths() const;
  int64_t bytes_sent() const { return bytes_sent_; }  // of rows, to other ranks, ever
  int64_t bytes() const {
    return send_buffer_.bytes() + recv_buffer_.bytes() + return_buffer_.bytes() + home_buffer_.bytes() +
           weights_send_.bytes() + weights_recv_.bytes() + row_scales_.bytes();
  }
  int64_t bytes_of(int64_t rows) const {
    return ep_.size() == 1 ? 0 : rows * 2 * hidden_size_ * engine::dtype_bytes(storage_);
  }

 private:
  static constexpr int64_t kMostChunks = 8;
  using Works = std::array<comm::Work, kMostChunks>;
  // Sends chunk `chunk` of rows in the order `from`, and receives that of rows in the order `to`.
  comm::Work exchange(int64_t chunk, const RowOrder& to, Tensor received, const RowOrder& from, ConstTensor sent);
  // Rows first_row(chunk) to first_row(chunk + 1) are those of its experts.
  int64_t first_row(int64_t chunk) const { return plan_.offsets()[plan_.first_expert(chunk)]; }
  void permute_chunk(int64_t chunk, Tensor y_RD, const float* scales_R) const;

  comm::Group& ep_;
  int64_t slots_, hidden_size_;
  engine::DType storage_;  // of rows
  DispatchPlan plan_;
  int64_t bytes_sent_ = 0;
  Works dispatching_, combining_;
  bool permuted_ = false;  // early
  ConstTensor tokens_MD_;  // received; on one rank the pass's own
  ConstTensor back_ND_;    // come home; on one rank the experts' own
  engine::GrowingBuffer send_buffer_, recv_buffer_, return_buffer_, home_buffer_;
  engine::GrowingBuffer weights_send_, weights_recv_;
  engine::GrowingBuffer row_scales_;  // [R]
};

}  // namespace moe
