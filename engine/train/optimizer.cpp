#include "engine/train/optimizer.h"

#include <fnmatch.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "engine/core/error.h"
#include "engine/core/transfer.h"
#include "engine/ops/adamw.h"
#include "engine/ops/residual_add.h"
#include "engine/ops/squared_norm.h"

namespace engine::train {
namespace {

using nn::kParameterBlock;
static_assert(ops::kChangedBlock == kParameterBlock);

// Elements [begin, end) of a buffer of `dtype`.
Tensor part(const Buffer& buffer, DType dtype, int64_t begin, int64_t end) {
  return Tensor(buffer.data() + begin * dtype_bytes(dtype), dtype, {end - begin}, buffer.device());
}

}  // namespace

Optimizer::Optimizer(const OptimizerConfig& config, nn::ParameterStore& store, const TensorTable& table,
                     comm::ParallelGroups& groups)
    : config_(config), store_(store), table_(table), world_(*groups.world) {
  shards_.reserve(2);
  std::map<const nn::Parameter*, int64_t> first_blocks;
  for (const TensorTable::Entry& entry : table.entries()) {
    if (entry.local != nullptr) first_blocks[entry.local] = entry.first_block;
  }
  add_ranges(store.dense(), *groups.world);
  add_ranges(store.expert(), *groups.expert_dp);
  for (const Range& range : ranges_) add_slices(range, first_blocks);
  block_sums_.resize(static_cast<size_t>(table.num_blocks()));
  square_sums_.resize(table.entries().size());
}

void Optimizer::add_ranges(nn::ParameterBlock& block, comm::Group& group) {
  Shard& shard = shards_.emplace_back();
  shard.block = &block, shard.group = &group;
  const std::vector<LayerRange> ranges = layer_ranges(block, group.size());
  for (const LayerRange& range : ranges) ranges_.push_back({range, &shard});
  const int64_t elements = shard_elements(ranges, group.rank()), blocks = elements / kParameterBlock;
  shard.exp_avg = Buffer(elements * 4, store_.device());
  shard.exp_avg_sq = Buffer(elements * 4, store_.device());
  shard.block_sums = Buffer(blocks * 8, store_.device());
  shard.updated = Buffer(blocks * 4, store_.device());
  shard.block_sums_here.resize(static_cast<size_t>(blocks));
  moments_bytes_ += elements * 8;
}

// Without its place in the shard.
Optimizer::Piece Optimizer::own_piece(const Range& range) const {
  const int rank = range.shard->group->rank();
  return {range.shard, range.piece_begin(rank), range.piece_end(rank), 0};
}

// In the order of the shard, whose elements placed so far are counted.
void Optimizer::add_slices(const Range& range, const std::map<const nn::Parameter*, int64_t>& first_blocks) {
  Piece piece = own_piece(range);
  if (piece.begin == piece.end) return;
  piece.in_shard = std::exchange(range.shard->placed, range.shard->placed + piece.end - piece.begin);
  const bool touches = !pieces_.empty() && pieces_.back().shard == piece.shard && pieces_.back().end == piece.begin;
  if (touches) pieces_.back().end = piece.end;
  if (!touches) pieces_.push_back(piece);
  for (nn::Parameter* parameter : range.shard->block->members) {
    const int64_t begin = std::max(parameter->begin, piece.begin);
    const int64_t end = std::min(parameter->begin + parameter->elements, piece.end);
    if (begin >= end) continue;
    add_slice(*parameter, {piece.shard, begin, end, piece.in_shard + begin - piece.begin}, first_blocks.at(parameter));
  }
}

void Optimizer::add_slice(nn::Parameter& parameter, const Piece& piece, int64_t first_block) {
  OptimizerSlice slice{.parameter = &parameter,
                       .begin = piece.begin - parameter.begin,
                       .count = piece.end - piece.begin,
                       .exp_avg = piece.shard->exp_avg.f32() + piece.in_shard,
                       .exp_avg_sq = piece.shard->exp_avg_sq.f32() + piece.in_shard,
                       .weight_decay = parameter.spec.decays ? config_.weight_decay : 0.0};
  for (const ParameterGroupConfig& group : config_.groups) {
    if (fnmatch(group.pattern.c_str(), parameter.spec.name.c_str(), 0) != 0) continue;
    slice.lr_scale = group.lr_scale;
    if (group.weight_decay) slice.weight_decay = *group.weight_decay;
  }
  slices_.push_back(slice);
  slice_blocks_.push_back({.shard = piece.shard,
                           .in_shard = piece.in_shard / kParameterBlock,
                           .in_table = first_block + slice.begin / kParameterBlock,
                           .count = (slice.count + kParameterBlock - 1) / kParameterBlock});
  // weights begin at blocks: what lies between the end of one and the next is updated with it
  const auto ends_before = [&](const Piece& last) {
    return last.shard == piece.shard && piece.begin - last.begin == piece.in_shard - last.in_shard &&
           piece.begin - last.end < kParameterBlock;
  };
  const bool goes_on = !runs_.empty() && ends_before(runs_.back().piece) && runs_.back().lr_scale == slice.lr_scale &&
                       runs_.back().weight_decay == slice.weight_decay;
  if (!goes_on) runs_.push_back({piece, slice.lr_scale, slice.weight_decay});
  runs_.back().piece.end = piece.end;
}

void Optimizer::start_reduction(int64_t layer) {
  if (store_.granules() == 1) return;
  for (Range& range : ranges_) {
    if (range.layer == layer) start(range);
  }
}

void Optimizer::start(Range& range) {
  const Piece own = own_piece(range);
  const Tensor sums = part(range.shard->block->sums, DType::f64, range.begin, range.end);
  // in place: a rank's own part is read by nobody else
  next_work(range.shard->group->reduce_scatter_sum(sums.slice_rows(own.begin - range.begin, own.end - own.begin), sums,
                                                   range.begins));
  range.started = true;
}

// Waits for the oldest of the ring.
void Optimizer::next_work(comm::Work work) {
  works_[num_works_++ % kMostWorks] = std::move(work);
}

void Optimizer::finish_works() {
  for (size_t i = 0; i < kMostWorks; ++i) works_[num_works_++ % kMostWorks].wait();
  for (Range& range : ranges_) range.started = false;
}

void Optimizer::reduce_gradients() {
  if (store_.granules() == 1) {
    // one rank: the chains are the gradient; the tied embedding has two
    for (nn::Parameter& parameter : store_.all()) {
      if (!parameter.tied.chain) continue;
      ops::residual_add({.x_TD = parameter.gradient.chain, .y_TD = parameter.tied.chain});
      set_zero(parameter.tied.chain);
    }
    return;
  }
  for (Range& range : ranges_) {
    if (!range.started) start(range);
  }
  finish_works();
  for (const Range& range : ranges_) {
    const Piece own = own_piece(range);
    set_zero(range.shard->block->gradient(range.begin, own.begin));
    set_zero(range.shard->block->gradient(own.end, range.end));
  }
}

double Optimizer::gradient_norm() {
  for (const Piece& piece : pieces_) {
    ops::squared_norm({.block_sums = piece.shard->block_sums.f64() + piece.in_shard / kParameterBlock,
                       .x_N = piece.shard->block->gradient(piece.begin, piece.end),
                       .block = kParameterBlock});
  }
  for (Shard& shard : shards_) {
    const int64_t blocks = std::ssize(shard.block_sums_here);
    if (blocks == 0) continue;
    copy(Tensor(shard.block_sums_here.data(), DType::f64, {blocks}), part(shard.block_sums, DType::f64, 0, blocks));
  }
  std::fill(block_sums_.begin(), block_sums_.end(), 0.0);
  for (const SliceBlocks& blocks : slice_blocks_) {
    std::copy_n(blocks.shard->block_sums_here.data() + blocks.in_shard, blocks.count,
                block_sums_.data() + blocks.in_table);
  }
  // every block has one owner, the others add zero
  world_.all_reduce_sum(Tensor(block_sums_.data(), DType::f64, {table_.num_blocks()})).wait();
  double total = 0;
  for (size_t i = 0; i < table_.entries().size(); ++i) {
    const TensorTable::Entry& entry = table_.entries()[i];
    double sum = 0;
    for (int64_t b = 0; b * kParameterBlock < entry.elements; ++b) {
      sum += block_sums_[static_cast<size_t>(entry.first_block + b)];
    }
    if (!std::isfinite(sum)) {
      throw Error(ExitCode::numerical, str("the gradient of ", entry.name,
                                           " is not finite; the weights were not touched. Lower optim.lr, or resume "
                                           "from an earlier checkpoint"));
    }
    square_sums_[i] = sum;
    total += sum;
  }
  return std::sqrt(total);
}

void Optimizer::update(int64_t step, double lr, double clip) {
  const ops::BiasCorrections corrections = ops::adamw_bias_corrections(config_.betas[0], config_.betas[1], step);
  for (const Run& run : runs_) {
    const Shard& shard = *run.piece.shard;
    const int64_t begin = run.piece.in_shard, end = begin + run.piece.end - run.piece.begin;
    ops::adamw({.weight_N = part(shard.block->weights, DType::f32, run.piece.begin, run.piece.end),
                .m_N = part(shard.exp_avg, DType::f32, begin, end),
                .v_N = part(shard.exp_avg_sq, DType::f32, begin, end),
                .gradient_N = shard.block->gradient(run.piece.begin, run.piece.end),
                .lr = static_cast<float>(lr * run.lr_scale),
                .beta1 = static_cast<float>(config_.betas[0]),
                .beta2 = static_cast<float>(config_.betas[1]),
                .eps = static_cast<float>(config_.eps),
                .weight_decay = static_cast<float>(run.weight_decay),
                .clip = static_cast<float>(clip),
                .bias_correction1 = static_cast<float>(corrections.first),
                .bias_correction2 = static_cast<float>(corrections.second),
                .changed = reinterpret_cast<uint32_t*>(shard.updated.data()) + begin / kParameterBlock});
  }
  for (const Range& range : ranges_) {
    const Tensor weights = part(range.shard->block->weights, DType::f32, range.begin, range.end);
    next_work(range.shard->group->all_gather_v(weights, range.begins));
  }
  finish_works();
  store_.weights_changed();
}

void Optimizer::clear_gradients() {
  finish_works();
  for (Shard& shard : shards_) {
    const nn::ParameterBlock& block = *shard.block;
    if (block.chains.bytes() > 0) set_zero(part(block.chains, DType::f32, 0, block.elements));
    if (block.sums.bytes() > 0) set_zero(part(block.sums, DType::f64, 0, block.elements));
  }
  for (nn::Parameter& parameter : store_.all()) {
    if (parameter.tied.chain) set_zero(parameter.tied.chain);
  }
}

void Optimizer::fetch_updated() {
  for (Shard& shard : shards_) {
    if (shard.block_sums_here.empty()) continue;
    const Tensor marks = part(shard.updated, DType::i32, 0, std::ssize(shard.block_sums_here));
    const HostCopy here(marks);
    for (size_t i = 0; i < slices_.size(); ++i) {
      const SliceBlocks& blocks = slice_blocks_[i];
      if (blocks.shard != &shard) continue;
      const int32_t* first = here.i32() + blocks.in_shard;
      if (std::find(first, first + blocks.count, 1) != first + blocks.count) slices_[i].updated = 1;
    }
    set_zero(marks);
  }
}

}  // namespace engine::train
