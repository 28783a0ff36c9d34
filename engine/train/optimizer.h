// AdamW with ZeRO-1: the optimizer state of a weight is spread over the ranks that hold the weight.
//
// A rank has a shard (shards.h) of each flat block of the ParameterStore, whose group is world for dense weights and
// expert_dp for experts. It reduces, measures and updates that alone, then the weights are gathered.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <vector>

#include "comm/parallel_groups.h"
#include "engine/config/config.h"
#include "engine/core/buffer.h"
#include "engine/nn/parameters.h"
#include "engine/train/shards.h"
#include "engine/train/tensor_table.h"

namespace engine::train {

// Elements [begin, begin + count) of a weight, whose moments this rank keeps.
struct OptimizerSlice {
  nn::Parameter* parameter = nullptr;
  int64_t begin = 0, count = 0;
  float* exp_avg = nullptr;
  float* exp_avg_sq = nullptr;
  double lr_scale = 1, weight_decay = 0;
  uint32_t updated =
      0;  // after fetch_updated(): 1 once a step has changed a bit of it, until who reads it sets it to 0
};

class Optimizer {
 public:
  Optimizer(const OptimizerConfig& config, nn::ParameterStore& store, const TensorTable& table,
            comm::ParallelGroups& groups);

  // Collective, in the same order on every rank: the gradients of a layer are complete on this rank. Begins to sum
  // them over ranks while the backward pass goes on.
  void start_reduction(int64_t layer);

  // Collective: sums what is left; afterwards each rank holds the gradient of its shard (ParameterBlock::gradient),
  // and zeros elsewhere.
  void reduce_gradients();

  // Collective, after reduce_gradients: the norm over all weights, each counted once. Also fills square_sums(),
  // the squared norm of each weight in table order. Throws Error(numerical) naming the first that is not finite.
  double gradient_norm();
  const std::vector<double>& square_sums() const { return square_sums_; }

  // One AdamW step on this rank's shard with gradient * clip, which is zero afterwards; then gathers the weights.
  // `step` counts from 1.
  void update(int64_t step, double lr, double clip);

  // Gradients and sums to zero, for a step that is computed again. Collective if reductions were begun.
  void clear_gradients();

  std::vector<OptimizerSlice>& slices() { return slices_; }
  void fetch_updated();
  int64_t state_bytes() const { return moments_bytes_; }

 private:
  // Of a flat block.
  struct Shard {
    nn::ParameterBlock* block = nullptr;
    comm::Group* group = nullptr;
    int64_t placed = 0;  // elements, while pieces are added
    // moments, and by parameter block sums of squares (f64) and marks of what was updated (u32)
    Buffer exp_avg, exp_avg_sq, block_sums, updated;
    std::vector<double> block_sums_here;  // on the host
  };
  // Elements [begin, end) of a flat block that are element `in_shard` and the following of its shard.
  struct Piece {
    Shard* shard;
    int64_t begin, end, in_shard;
  };
  // Weights that lie beside each other in a piece and are updated alike: what one call updates.
  struct Run {
    Piece piece;
    double lr_scale, weight_decay;
  };
  // The parameter blocks of a slice.
  struct SliceBlocks {
    Shard* shard;
    int64_t in_shard, in_table, count;  // the first of them, and how many
  };
  // What is reduced and gathered at once.
  struct Range : LayerRange {
    Shard* shard;
    bool started = false;
  };
  static constexpr size_t kMostWorks = 4;  // under way at once: each needs room for what it receives

  void add_ranges(nn::ParameterBlock& block, comm::Group& group);
  void add_slices(const Range& range, const std::map<const nn::Parameter*, int64_t>& first_blocks);
  void add_slice(nn::Parameter& parameter, const Piece& piece, int64_t first_block);
  Piece own_piece(const Range& range) const;
  void start(Range& range);
  void next_work(comm::Work work);
  void finish_works();

  OptimizerConfig config_;
  nn::ParameterStore& store_;
  const TensorTable& table_;
  comm::Group& world_;
  std::vector<Shard> shards_;  // dense, expert
  std::vector<Range> ranges_;
  std::vector<Piece> pieces_;  // of this rank; those of neighbouring ranges are one where they touch
  std::vector<Run> runs_;
  std::array<comm::Work, kMostWorks> works_;  // a ring
  size_t num_works_ = 0;                      // begun so far
  std::vector<OptimizerSlice> slices_;
  std::vector<SliceBlocks> slice_blocks_;
  std::vector<double> block_sums_;  // by block of the table
  std::vector<double> square_sums_;
  int64_t moments_bytes_ = 0;
};

}  // namespace engine::train
