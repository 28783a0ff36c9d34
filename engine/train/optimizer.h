// AdamW with ZeRO-1: the optimizer state of a weight is spread over the ranks that hold the weight.
//
// Each flat block of the ParameterStore is cut at parameter-block boundaries into one shard per rank of its group
// (world for dense weights, expert_dp for experts). A rank reduces, measures and updates its shards only, then
// the weights are gathered.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <vector>

#include "comm/parallel_groups.h"
#include "engine/config/config.h"
#include "engine/core/buffer.h"
#include "engine/nn/parameters.h"
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

  // Collective: sums what is left; afterwards each rank holds the gradient of its shards (ParameterBlock::gradient),
  // and zeros elsewhere.
  void reduce_gradients();

  // Collective, after reduce_gradients: the norm over all weights, each counted once. Also fills square_sums(),
  // the squared norm of each weight in table order. Throws Error(numerical) naming the first that is not finite.
  double gradient_norm();
  const std::vector<double>& square_sums() const { return square_sums_; }

  // One AdamW step on this rank's shards with gradient * clip, which is zero afterwards; then gathers the weights.
  // `step` counts from 1.
  void update(int64_t step, double lr, double clip);

  // Gradients and sums to zero, for a step that is computed again. Collective if reductions were begun.
  void clear_gradients();

  std::vector<OptimizerSlice>& slices() { return slices_; }
  void fetch_updated();
  int64_t state_bytes() const { return moments_bytes_; }

 private:
  struct Shards {
    nn::ParameterBlock* block = nullptr;
    comm::Group* group = nullptr;
    std::vector<int64_t> begins;  // [ranks + 1]
    // of this rank's shard: moments, and by parameter block sums of squares (f64) and marks of what was updated (u32)
    Buffer exp_avg, exp_avg_sq, block_sums, updated;
    std::vector<double> block_sums_here;  // on the host
    int64_t begin() const { return begins[static_cast<size_t>(group->rank())]; }
    int64_t end() const { return begins[static_cast<size_t>(group->rank()) + 1]; }
  };
  // Weights that lie beside each other in a shard and are updated alike: what one call updates.
  struct Run {
    Shards* shards;
    int64_t begin, end;  // in the flat block
    double lr_scale, weight_decay;
  };
  // The parameter blocks of a slice.
  struct SliceBlocks {
    Shards* shards;
    int64_t in_shard, in_table, count;  // the first of them, and how many
  };
  // Weights of one layer that lie beside each other in a flat block: what is reduced at once.
  struct Range {
    Shards* shards;
    int64_t layer;                // -1: outside of blocks
    int64_t begin, end;           // in the flat block
    std::vector<int64_t> begins;  // [ranks + 1] of the shards, relative to `begin`
    bool started = false;
  };
  static constexpr size_t kMostReductions = 4;  // under way at once: each needs room for what it receives

  void add_shards(nn::ParameterBlock& block, comm::Group& group);
  void add_slices(Shards& shards, const std::map<const nn::Parameter*, int64_t>& first_blocks);
  void add_ranges(Shards& shards);
  void start(Range& range);
  void finish_reductions();

  OptimizerConfig config_;
  nn::ParameterStore& store_;
  const TensorTable& table_;
  comm::Group& world_;
  std::vector<Shards> shards_;  // dense, expert
  std::vector<Run> runs_;
  std::vector<Range> ranges_;
  std::array<comm::Work, kMostReductions> reductions_;  // a ring
  size_t num_reductions_ = 0;                           // begun so far
  std::vector<OptimizerSlice> slices_;
  std::vector<SliceBlocks> slice_blocks_;
  std::vector<double> block_sums_;  // by block of the table
  std::vector<double> square_sums_;
  int64_t moments_bytes_ = 0;
};

}  // namespace engine::train
