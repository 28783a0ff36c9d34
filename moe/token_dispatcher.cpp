#include "moe/token_dispatcher.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "engine/core/error.h"
#include "moe/expert_placement.h"
#include "moe/permute.h"

namespace moe {

using comm::Work;
using engine::DType;

TokenDispatcher::TokenDispatcher(comm::Group& ep, int64_t num_experts, int64_t slots, int64_t hidden_size,
                                 std::vector<int32_t> rank_of_expert, int64_t chunks, engine::Device device,
                                 DType storage)
    : ep_(ep),
      slots_(slots),
      hidden_size_(hidden_size),
      storage_(storage),
      plan_(ep, rank_of_expert.empty() ? consecutive_experts(num_experts, ep.size()) : std::move(rank_of_expert), slots,
            chunks, device),
      send_buffer_(device),
      recv_buffer_(device),
      return_buffer_(device),
      home_buffer_(device),
      weights_send_(device),
      weights_recv_(device),
      row_scales_(device) {
  ENSURE(chunks >= 1 && chunks <= kMostChunks, "rows travel in ", chunks, " chunks but at most ", kMostChunks);
}

int64_t TokenDispatcher::expected_rows(const PassSize& size) const {
  if (size.places > 0) return plan_.num_local_experts() * ep_.size() * size.places;
  return static_cast<int64_t>(static_cast<double>(size.max_rows * slots_) * (ep_.size() == 1 ? 1.0 : size.headroom));
}

int64_t TokenDispatcher::num_places(const engine::nn::Pass& pass, int64_t places) const {
  const int64_t granules = ep_.size() == 1
                               ? pass.granules.count
                               : std::accumulate(pass.ep_granules.begin(), pass.ep_granules.end(), int64_t{0});
  return plan_.num_local_experts() * granules * places;
}

void TokenDispatcher::reserve(const PassSize& size) {
  const int64_t ranks = ep_.size(), expected = expected_rows(size), places = size.places * plan_.num_experts();
  const int64_t sent = places > 0 ? places : size.max_rows * std::min(slots_, ranks);
  const int64_t home = places > 0 ? places : size.max_rows * slots_, slots_sent = places > 0 ? 1 : slots_;
  plan_.reserve(size.max_rows, expected, places);
  row_scales_.reserve(DType::f32, expected, 1);
  if (ranks == 1) return;
  send_buffer_.reserve(storage_, sent, hidden_size_);
  home_buffer_.reserve(storage_, home, hidden_size_);
  recv_buffer_.reserve(storage_, expected, hidden_size_);
  return_buffer_.reserve(storage_, expected, hidden_size_);
  weights_send_.reserve(DType::f32, sent, slots_sent);
  weights_recv_.reserve(DType::f32, expected, slots_sent);
}

int64_t TokenDispatcher::growths() const {
  return send_buffer_.growths() + recv_buffer_.growths() + return_buffer_.growths() + home_buffer_.growths() +
         weights_send_.growths() + weights_recv_.growths() + row_scales_.growths();
}

void TokenDispatcher::permute_early(ConstTensor x_TD, Tensor expert_in_ND) {
  tokens_MD_ = x_TD;
  permute({.y_ND = expert_in_ND, .x_TD = x_TD, .rows = plan_.row_tokens_R()});
  permuted_ = true;
}

Work TokenDispatcher::exchange(int64_t chunk, const RowOrder& to, Tensor received, const RowOrder& from,
                               ConstTensor sent) {
  const size_t c = static_cast<size_t>(chunk);
  const ConstTensor out = sent.slice_rows(from.begins[c], from.begins[c + 1] - from.begins[c]);
  const Tensor in = received.slice_rows(to.begins[c], to.begins[c + 1] - to.begins[c]);
  const int64_t others = out.rows() - from.of(chunk)[static_cast<size_t>(ep_.rank())];
  bytes_sent_ += others * out.columns() * engine::dtype_bytes(out.dtype);
  if (plan_.even(chunk)) return ep_.all_to_all(in, out);
  return ep_.all_to_all_v(in, to.of(chunk), out, from.of(chunk));
}

void TokenDispatcher::start_dispatch(ConstTensor x_TD) {
  tokens_MD_ = x_TD;
  if (ep_.size() == 1) return;
  Tensor send = send_buffer_.view(storage_, plan_.sent().total(), hidden_size_);
  Tensor recv = recv_buffer_.view(storage_, plan_.received().total(), hidden_size_);
  permute({.y_ND = send, .x_TD = x_TD, .rows = plan_.sent_tokens()});
  for (int64_t c = 0; c < num_chunks(); ++c) {
    dispatching_[static_cast<size_t>(c)] = exchange(c, plan_.received(), recv, plan_.sent(), send);
  }
  tokens_MD_ = recv;
}

void TokenDispatcher::permute_chunk(int64_t chunk, Tensor y_RD, const float* scales_R) const {
  const int64_t begin = first_row(chunk), count = first_row(chunk + 1) - begin;
  permute({.y_ND = y_RD.slice_rows(begin, count),
           .x_TD = tokens_MD_,
           .rows = plan_.row_tokens_R() + begin,
           .scales = scales_R == nullptr ? nullptr : scales_R + begin});
}

void TokenDispatcher::finish_dispatch(int64_t chunk, Tensor expert_in_RD) {
  if (std::exchange(permuted_, false)) return;
  dispatching_[static_cast<size_t>(chunk)].wait();
  permute_chunk(chunk, expert_in_RD, nullptr);
}

void TokenDispatcher::start_combine(int64_t chunk, ConstTensor expert_out_RD) {
  back_ND_ = expert_out_RD;
  if (ep_.size() == 1) return;
  const RowOrder& returned = plan_.returned();
  const int64_t begin = returned.begins[static_cast<size_t>(chunk)];
  const int64_t count = returned.begins[static_cast<size_t>(chunk) + 1] - begin;
  Tensor out = return_buffer_.view(storage_, returned.total(), hidden_size_);
  Tensor home = home_buffer_.view(storage_, plan_.home().total(), hidden_size_);
  permute({.y_ND = out.slice_rows(begin, count), .x_TD = expert_out_RD, .rows = plan_.return_order() + begin});
  combining_[static_cast<size_t>(chunk)] = exchange(chunk, plan_.home(), home, returned, out);
  back_ND_ = home;
}

void TokenDispatcher::finish_combine(ConstTensor weights_TK, Tensor y_TD) {
  for (Work& work : combining_) work.wait();
  unpermute({.y_TD = y_TD,
             .x_ND = back_ND_,
             .rows_TK = plan_.home_rows_TK(),
             .weights_TK = weights_TK.f32(),
             .num_slots = slots_});
}

void TokenDispatcher::finish_dispatch_backward(Tensor dx_TD) {
  for (Work& work : combining_) work.wait();
  unpermute({.y_TD = dx_TD, .x_ND = back_ND_, .rows_TK = plan_.home_rows_TK(), .num_slots = slots_});
}

void TokenDispatcher::start_combine_backward(ConstTensor dy_TD, ConstTensor weights_TK) {
  ConstTensor weights_MK = weights_TK;
  if (ep_.size() > 1) {
    const int64_t K = plan_.slots_sent();
    Tensor send = weights_send_.view(DType::f32, plan_.sent().total(), K);
    Tensor recv = weights_recv_.view(DType::f32, plan_.received().total(), K);
    const ConstTensor weights(weights_TK.data, DType::f32, {weights_TK.num_elements() / K, K}, weights_TK.device);
    permute({.y_ND = send, .x_TD = weights, .rows = plan_.sent_slots()});
    for (int64_t c = 0; c < num_chunks(); ++c) {
      combining_[static_cast<size_t>(c)] = exchange(c, plan_.received(), recv, plan_.sent(), send);
    }
    weights_MK = recv;
  }
  start_dispatch(dy_TD);
  for (Work& work : combining_) work.wait();
  const ConstTensor weights(weights_MK.data, DType::f32, {weights_MK.num_elements(), 1}, weights_MK.device);
  permute({.y_ND = row_scales_.view(DType::f32, num_rows(), 1), .x_TD = weights, .rows = plan_.row_pairs_R()});
}

void TokenDispatcher::finish_combine_backward(int64_t chunk, Tensor dexpert_out_RD) {
  dispatching_[static_cast<size_t>(chunk)].wait();
  permute_chunk(chunk, dexpert_out_RD, row_scales_.view(DType::f32, num_rows(), 1).f32());
}

void TokenDispatcher::weights_backward(ConstTensor dy_TD, ConstTensor expert_out_RD, Tensor dweights_TK) {
  if (ep_.size() == 1) {
    return unpermute_weights_backward(
        {.dweights_TK = dweights_TK, .dy_TD = dy_TD, .x_ND = expert_out_RD, .rows_TK = plan_.home_rows_TK()});
  }
  Tensor dweights_MK = weights_recv_.view(DType::f32, plan_.received().total(), plan_.slots_sent());
  Tensor home = weights_send_.view(DType::f32, plan_.sent().total(), plan_.slots_sent());
  unpermute_weights_backward(
      {.dweights_TK = dweights_MK, .dy_TD = tokens_MD_, .x_ND = expert_out_RD, .rows_TK = plan_.rows_MK()});
  for (int64_t c = 0; c < num_chunks(); ++c) {
    dispatching_[static_cast<size_t>(c)] = exchange(c, plan_.sent(), home, plan_.received(), dweights_MK);
  }
  for (Work& work : dispatching_) work.wait();
  // each (t, k) comes from the rank that has its expert
  const auto numbers = [](Tensor t) { return Tensor(t.data, DType::f32, {t.num_elements(), 1}, t.device); };
  permute({.y_ND = numbers(dweights_TK), .x_TD = numbers(home), .rows = plan_.sent_places_TK()});
}

}  // namespace moe
