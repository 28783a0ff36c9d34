// DispatchPlan: which rows of a pass go where and in which order, from the choices of all ranks. Integers only.
//
// Rows travel in chunks, by the experts they go to: chunk c of C are local experts [c n / C, (c + 1) n / C) of each
// rank's n. A token goes to a rank once, with the first chunk that needs it; its results come home with the chunks that
// made them. Chunks change when rows travel, not what is computed with them.
//
// On a GPU experts with a capacity have as many places for each granule, taken or not (capacity_order.h). Then numbers
// of rows follow from the config, and the host waits for nothing. A token goes to a rank once for each of its experts
// there, since who shares a row is known on the device alone, and an empty place is a row of zeros.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "comm/group.h"
#include "engine/core/mirror.h"
#include "engine/core/readback.h"
#include "engine/core/tensor.h"
#include "engine/nn/layer.h"

namespace moe {

// Rows of one kind: by chunk, within it by rank, within that in the order of tokens.
struct RowOrder {
  int64_t ranks = 1;
  std::vector<int64_t> counts;  // [chunks * ranks]
  std::vector<int64_t> begins;  // [chunks + 1] first row of each chunk

  void reset(int64_t chunks, int64_t num_ranks);
  int64_t& count(int64_t chunk, int64_t rank) { return counts[static_cast<size_t>(chunk * ranks + rank)]; }
  // Sets `begins` from the counts, and `places` to the first row of each (chunk, rank).
  void finish(std::vector<int64_t>& places);
  std::span<const int64_t> of(int64_t chunk) const {
    return {counts.data() + chunk * ranks, static_cast<size_t>(ranks)};
  }
  int64_t total() const { return begins.back(); }
};

class DispatchPlan {
 public:
  // rank_of_expert: the rank of ep that holds each expert.
  // Lists of rows are on the device. On a GPU one rank makes them there; several make them on the host from the
  // choices, which come to it, and `ep` goes by NCCL.
  DispatchPlan(comm::Group& ep, std::vector<int32_t> rank_of_expert, int64_t slots, int64_t chunks,
               engine::Device device = engine::Device::cpu);

  // Memory for passes of max_rows rows on every rank that give this rank up to `expected` rows, and take up to
  // `taken_places` places of all ranks' experts.
  void reserve(int64_t max_rows, int64_t expected, int64_t taken_places = 0);

  // Collective. A topk_idx of -1 goes nowhere. With `places`, on a GPU, every expert has so many for each granule, each
  // rank of ep has pass.ep_granules[rank] granules, and everything is there at once. Else on a GPU the host must know
  // the numbers of rows, and what was placed in readback() before comes with them: where one rank makes the lists on
  // the device, row_tokens_R(), row_pairs_R() and home_rows_TK() are queued after start_route(), -1 behind the last
  // row, and all numbers are there after finish_route(). Everywhere else nothing is valid before finish_route().
  void start_route(const engine::nn::Pass& pass, engine::ConstTensor topk_idx_TK, int64_t places = 0);
  void finish_route();
  bool orders_on_device() const { return device_ == engine::Device::cuda && ep_.size() == 1; }
  // With places, where a chunk has as many experts on every rank and every rank as many granules: each rank sends each
  // other one as many rows.
  bool even(int64_t chunk) const { return even_[static_cast<size_t>(chunk)]; }
  // Of the pass: the host has had to wait for its numbers.
  bool waits() const { return device_ == engine::Device::cuda && places_ == 0; }

  engine::Readback& readback() { return readback_; }

  int64_t num_experts() const { return static_cast<int64_t>(rank_of_expert_.size()); }  // of all ranks
  int64_t num_local_experts() const { return num_local_experts_; }
  int64_t num_chunks() const { return chunks_; }
  int64_t first_expert(int64_t chunk) const { return chunk * num_local_experts_ / chunks_; }  // of this rank's

  // Home side.
  const RowOrder& sent() const { return sent_; }  // (token, rank); with places (token, slot)
  const RowOrder& home() const { return home_; }  // (token, slot) that come back
  const int32_t* sent_tokens() const { return lists_.sent_tokens; }
  // Numbers of its token's slots that go with a row, and which among the [T * K / slots_sent()] rows of the pass's.
  int64_t slots_sent() const { return places_ > 0 ? 1 : slots_; }
  const int32_t* sent_slots() const { return lists_.sent_slots; }
  // -1: dropped; on one rank the expert's row
  const int32_t* home_rows_TK() const { return lists_.home_rows_TK; }
  // On several ranks: where (t, k) is among the [sent().total() * slots_sent()] numbers of the rows sent; -1: it went
  // nowhere.
  const int32_t* sent_places_TK() const { return lists_.sent_places_TK; }
  // Expert side; rows are sorted by expert, then granule, then token.
  const RowOrder& received() const { return received_; }                           // tokens
  const RowOrder& returned() const { return returned_; }                           // (token, slot) that go back
  int64_t num_rows() const { return offsets_e_.empty() ? 0 : offsets_e_.back(); }  // R
  int64_t num_granules() const { return num_granules_; }                           // of all ranks in this pass
  const int64_t* offsets() const { return offsets_e_.data(); }                     // [e + 1]
  const int64_t* granule_offsets() const { return granule_offsets_.data(); }       // [e * (num_granules() + 1)]
  const int32_t* row_tokens_R() const { return lists_.row_tokens_R; }              // received; on one rank its own
  const int32_t* row_pairs_R() const { return lists_.row_pairs_R; }                // that row's number of its slot
  const int32_t* return_order() const { return lists_.return_order; }              // rows in the order they go back
  const int32_t* rows_MK() const { return lists_.rows_MK; }  // of each received row's slots; -1: not here

 private:
  // As the ops of the device find them.
  struct Lists {
    const int32_t *sent_tokens = nullptr, *sent_slots = nullptr, *home_rows_TK = nullptr, *sent_places_TK = nullptr;
    const int32_t *row_tokens_R = nullptr, *row_pairs_R = nullptr, *return_order = nullptr, *rows_MK = nullptr;
  };
  // The plan of one rank on a GPU, where the choices are: only the numbers of rows come to the host.
  void order_on_device(const engine::nn::Pass& pass, engine::ConstTensor topk_idx_TK);
  void take_numbers();
  void order_by_capacity(const engine::nn::Pass& pass, engine::ConstTensor topk_idx_TK);
  void number_places(const engine::nn::Pass& pass);
  void list_places(const engine::nn::Pass& pass);
  engine::ConstTensor on_host(engine::ConstTensor topk_idx_TK);
  void publish_lists();
  void list_sent(engine::ConstTensor topk_idx_TK, const engine::nn::Pass& pass);
  void exchange(int64_t granules);
  void sort_received();
  int64_t chunk_of(int64_t local_expert, int64_t num_local) const;
  template <class Visit>
  void each_received_pair(Visit visit) const;

  comm::Group& ep_;
  int64_t slots_, chunks_, num_local_experts_ = 0;
  std::vector<int32_t> rank_of_expert_, local_expert_, chunk_of_expert_;
  std::vector<int32_t> chunk_of_local_;
  std::vector<int64_t> experts_in_;  // [chunks * ranks]
  std::vector<bool> even_;           // [chunks]
  std::vector<int32_t> position_E_;  // of an expert among all, by chunk, then rank

  RowOrder sent_, home_, received_, returned_;
  std::vector<int64_t> next_rows_, next_pairs_;  // while rows are being placed
  std::vector<int32_t> sent_tokens_, home_rows_TK_, sent_places_TK_;
  // by rank, then token: local experts of its slots here, or -1, and its granule's number among those of the pass
  std::vector<int32_t> sent_info_, received_info_, tokens_by_rank_, chunks_by_rank_;
  std::vector<int64_t> rows_sent_, rows_received_;      // of that, per rank
  std::vector<int64_t> counts_sent_, counts_received_;  // per rank: tokens, granules
  std::vector<int64_t> granule_bases_;
  std::vector<int32_t> row_tokens_R_, row_pairs_R_, return_order_, rows_MK_;
  std::vector<int32_t> received_chunks_;
  std::vector<int64_t> offsets_e_, granule_offsets_;
  const int64_t* starts_ = nullptr;  // of granules, on their way to the host
  int64_t num_granules_ = 0, places_ = 0;

  engine::Device device_;
  Lists lists_{};
  std::vector<int32_t> all_lists_;  // one behind the other, on their way to a GPU
  engine::Mirror<int32_t> all_lists_there_;
  std::vector<int64_t> listed_granules_;  // of each rank, that lists of places are made for
  engine::Mirror<int32_t> position_there_, row_tokens_there_, return_order_there_;
  const int32_t* position_there_E_ = nullptr;
  const int32_t *listed_tokens_R_ = nullptr, *listed_order_ = nullptr;  // of places, there
  engine::Buffer tokens_device_, pairs_device_, rows_device_, offsets_device_;
  engine::Readback readback_;
};

}  // namespace moe
