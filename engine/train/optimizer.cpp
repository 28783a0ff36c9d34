#include "engine/train/optimizer.h"

#include <fnmatch.h>

#include <algorithm>
#include <cmath>

#include "engine/core/error.h"
#include "engine/core/transfer.h"
#include "engine/ops/adamw.h"
#include "engine/ops/residual_add.h"
#include "engine/ops/squared_norm.h"

namespace engine::train {
namespace {

using nn::kParameterBlock;
static_assert(ops::kChangedBlock == kParameterBlock);

std::vector<int64_t> shard_begins(int64_t elements, int ranks) {
  const int64_t blocks = elements / kParameterBlock;
  std::vector<int64_t> begins;
  for (int64_t rank = 0; rank <= ranks; ++rank) begins.push_back(blocks * rank / ranks * kParameterBlock);
  return begins;
}

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
  for (auto [block, group] :
       {std::pair{&store.dense(), groups.world.get()}, {&store.expert(), groups.expert_dp.get()}}) {
    add_shards(*block, *group);
    add_slices(shards_.back(), first_blocks);
    add_ranges(shards_.back());
  }
  block_sums_.resize(static_cast<size_t>(table.num_blocks()));
  square_sums_.resize(table.entries().size());
}

void Optimizer::add_shards(nn::ParameterBlock& block, comm::Group& group) {
  Shards& shards = shards_.emplace_back();
  shards.block = &block, shards.group = &group, shards.begins = shard_begins(block.elements, group.size());
  const int64_t count = shards.end() - shards.begin(), blocks = count / kParameterBlock;
  shards.exp_avg = Buffer(count * 4, store_.device());
  shards.exp_avg_sq = Buffer(count * 4, store_.device());
  shards.block_sums = Buffer(blocks * 8, store_.device());
  shards.updated = Buffer(blocks * 4, store_.device());
  shards.block_sums_here.resize(static_cast<size_t>(blocks));
  moments_bytes_ += count * 8;
}

void Optimizer::add_ranges(Shards& shards) {
  for (const nn::Parameter* parameter : shards.block->members) {
    const int64_t layer = parameter->spec.layer;
    const bool goes_on = !ranges_.empty() && ranges_.back().shards == &shards && ranges_.back().layer == layer;
    if (!goes_on) ranges_.push_back({&shards, layer, parameter->begin, 0, {}});
    const int64_t blocks = (parameter->elements + kParameterBlock - 1) / kParameterBlock;
    ranges_.back().end = parameter->begin + blocks * kParameterBlock;
  }
  for (Range& range : ranges_) {
    if (range.shards != &shards) continue;
    for (int64_t begin : shards.begins) {
      range.begins.push_back(std::clamp(begin, range.begin, range.end) - range.begin);
    }
  }
}

void Optimizer::add_slices(Shards& shards, const std::map<const nn::Parameter*, int64_t>& first_blocks) {
  for (nn::Parameter* parameter : shards.block->members) {
    const int64_t begin = std::max(parameter->begin, shards.begin());
    const int64_t end = std::min(parameter->begin + parameter->elements, shards.end());
    if (begin >= end) continue;
    OptimizerSlice slice{.parameter = parameter,
                         .begin = begin - parameter->begin,
                         .count = end - begin,
                         .exp_avg = shards.exp_avg.f32() + (begin - shards.begin()),
                         .exp_avg_sq = shards.exp_avg_sq.f32() + (begin - shards.begin()),
                         .weight_decay = parameter->spec.decays ? config_.weight_decay : 0.0};
    for (const ParameterGroupConfig& group : config_.groups) {
      if (fnmatch(group.pattern.c_str(), parameter->spec.name.c_str(), 0) != 0) continue;
      slice.lr_scale = group.lr_scale;
      if (group.weight_decay) slice.weight_decay = *group.weight_decay;
    }
    slices_.push_back(slice);
    slice_blocks_.push_back({.shards = &shards,
                             .in_shard = (begin - shards.begin()) / kParameterBlock,
                             .in_table = first_blocks.at(parameter) + slice.begin / kParameterBlock,
                             .count = (slice.count + kParameterBlock - 1) / kParameterBlock});
    const bool goes_on = !runs_.empty() && runs_.back().shards == &shards && runs_.back().lr_scale == slice.lr_scale &&
                         runs_.back().weight_decay == slice.weight_decay;
    if (!goes_on) runs_.push_back({&shards, begin, 0, slice.lr_scale, slice.weight_decay});
    runs_.back().end = end;
  }
}

void Optimizer::start_reduction(int64_t layer) {
  if (store_.granules() == 1) return;
  for (Range& range : ranges_) {
    if (range.layer == layer) start(range);
  }
}

void Optimizer::start(Range& range) {
  Shards& shards = *range.shards;
  const size_t rank = static_cast<size_t>(shards.group->rank());
  const Tensor sums = part(shards.block->sums, DType::f64, range.begin, range.end);
  const int64_t begin = range.begins[rank], count = range.begins[rank + 1] - begin;
  // in place: a rank's own part is read by nobody else; the oldest of the ring is waited for
  reductions_[num_reductions_++ % kMostReductions] =
      shards.group->reduce_scatter_sum(sums.slice_rows(begin, count), sums, range.begins);
  range.started = true;
}

void Optimizer::finish_reductions() {
  for (size_t i = 0; i < kMostReductions; ++i) reductions_[num_reductions_++ % kMostReductions].wait();
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
  finish_reductions();
  for (Shards& shards : shards_) {
    set_zero(shards.block->gradient(0, shards.begin()));
    set_zero(shards.block->gradient(shards.end(), shards.block->elements));
  }
}

double Optimizer::gradient_norm() {
  for (Shards& shards : shards_) {
    const int64_t blocks = std::ssize(shards.block_sums_here);
    if (blocks == 0) continue;
    const Tensor sums = part(shards.block_sums, DType::f64, 0, blocks);
    ops::squared_norm({.block_sums = sums.f64(),
                       .x_N = shards.block->gradient(shards.begin(), shards.end()),
                       .block = kParameterBlock});
    copy(Tensor(shards.block_sums_here.data(), DType::f64, {blocks}), sums);
  }
  std::fill(block_sums_.begin(), block_sums_.end(), 0.0);
  for (const SliceBlocks& blocks : slice_blocks_) {
    std::copy_n(blocks.shards->block_sums_here.data() + blocks.in_shard, blocks.count,
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
    const Shards& shards = *run.shards;
    const int64_t begin = run.begin - shards.begin(), end = run.end - shards.begin();
    ops::adamw({.weight_N = part(shards.block->weights, DType::f32, run.begin, run.end),
                .m_N = part(shards.exp_avg, DType::f32, begin, end),
                .v_N = part(shards.exp_avg_sq, DType::f32, begin, end),
                .gradient_N = shards.block->gradient(run.begin, run.end),
                .lr = static_cast<float>(lr * run.lr_scale),
                .beta1 = static_cast<float>(config_.betas[0]),
                .beta2 = static_cast<float>(config_.betas[1]),
                .eps = static_cast<float>(config_.eps),
                .weight_decay = static_cast<float>(run.weight_decay),
                .clip = static_cast<float>(clip),
                .bias_correction1 = static_cast<float>(corrections.first),
                .bias_correction2 = static_cast<float>(corrections.second),
                .changed = reinterpret_cast<uint32_t*>(shards.updated.data()) + begin / kParameterBlock});
  }
  std::array<comm::Work, 2> works;
  for (size_t i = 0; i < works.size(); ++i) {
    Shards& shards = shards_[i];
    works[i] =
        shards.group->all_gather_v(part(shards.block->weights, DType::f32, 0, shards.block->elements), shards.begins);
  }
  for (comm::Work& work : works) work.wait();
  store_.weights_changed();
}

void Optimizer::clear_gradients() {
  finish_reductions();
  for (Shards& shards : shards_) {
    const nn::ParameterBlock& block = *shards.block;
    if (block.chains.bytes() > 0) set_zero(part(block.chains, DType::f32, 0, block.elements));
    if (block.sums.bytes() > 0) set_zero(part(block.sums, DType::f64, 0, block.elements));
  }
  for (nn::Parameter& parameter : store_.all()) {
    if (parameter.tied.chain) set_zero(parameter.tied.chain);
  }
}

void Optimizer::fetch_updated() {
  for (Shards& shards : shards_) {
    if (shards.block_sums_here.empty()) continue;
    const Tensor marks = part(shards.updated, DType::i32, 0, std::ssize(shards.block_sums_here));
    const HostCopy here(marks);
    for (size_t i = 0; i < slices_.size(); ++i) {
      const SliceBlocks& blocks = slice_blocks_[i];
      if (blocks.shards != &shards) continue;
      const int32_t* first = here.i32() + blocks.in_shard;
      if (std::find(first, first + blocks.count, 1) != first + blocks.count) slices_[i].updated = 1;
    }
    set_zero(marks);
  }
}

}  // namespace engine::train
