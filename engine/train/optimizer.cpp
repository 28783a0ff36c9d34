#include "engine/train/optimizer.h"

#include <fnmatch.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "engine/core/error.h"
#include "engine/core/transfer.h"
#include "engine/ops/adamw.h"
#include "engine/ops/residual_add.h"
#include "engine/ops/squared_norm.h"

namespace engine::train {
namespace {

using nn::kParameterBlock;

std::vector<int64_t> shard_begins(int64_t elements, int ranks) {
  const int64_t blocks = elements / kParameterBlock;
  std::vector<int64_t> begins;
  for (int64_t rank = 0; rank <= ranks; ++rank) begins.push_back(blocks * rank / ranks * kParameterBlock);
  return begins;
}

Tensor range(float* first, int64_t count, Device device) {
  return Tensor(first, DType::f32, {count}, device);
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
  add_shards(store.dense(), *groups.world);
  add_shards(store.expert(), *groups.expert_dp);
  std::map<const nn::Parameter*, int64_t> first_block;
  for (const TensorTable::Entry& entry : table.entries()) {
    if (entry.local != nullptr) first_block[entry.local] = entry.first_block;
  }
  for (const OptimizerSlice& slice : slices_) {
    first_blocks_.push_back(first_block.at(slice.parameter) + slice.begin / kParameterBlock);
  }
  block_sums_.resize(static_cast<size_t>(table.num_blocks()));
  square_sums_.resize(table.entries().size());
  if (store.device() == Device::cpu) return;
  block_sums_there_ = Buffer(table.num_blocks() * 8, store.device());
  updated_there_ = Buffer(static_cast<int64_t>(slices_.size()) * 4, store.device());
}

void Optimizer::add_shards(nn::ParameterBlock& block, comm::Group& group) {
  Shards& shards = shards_.emplace_back(Shards{&block, &group, shard_begins(block.elements, group.size()), {}, {}});
  const int64_t count = shards.end() - shards.begin();
  shards.exp_avg = Buffer(count * 4, store_.device());
  shards.exp_avg_sq = Buffer(count * 4, store_.device());
  moments_bytes_ += count * 8;
  add_slices(shards);
  add_ranges(shards);
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

void Optimizer::add_slices(Shards& shards) {
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

Tensor Optimizer::gradient(const OptimizerSlice& slice) const {
  const nn::Parameter& parameter = *slice.parameter;
  const int64_t begin = parameter.begin + slice.begin;
  return (parameter.spec.is_expert ? store_.expert() : store_.dense()).gradient(begin, begin + slice.count);
}

double Optimizer::gradient_norm() {
  const bool there = store_.device() == Device::cuda;
  const Tensor sums_there = part(block_sums_there_, DType::f64, 0, there ? table_.num_blocks() : 0);
  if (there) set_zero(sums_there);
  std::fill(block_sums_.begin(), block_sums_.end(), 0.0);
  double* sums = there ? sums_there.f64() : block_sums_.data();
  for (size_t i = 0; i < slices_.size(); ++i) {
    const OptimizerSlice& slice = slices_[i];
    ops::squared_norm({.block_sums = sums + first_blocks_[i], .x_N = gradient(slice), .block = kParameterBlock});
  }
  if (there) copy(Tensor(block_sums_.data(), DType::f64, {table_.num_blocks()}), sums_there);
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
  for (size_t i = 0; i < slices_.size(); ++i) {
    OptimizerSlice& slice = slices_[i];
    const auto values = [&](float* first) { return range(first, slice.count, store_.device()); };
    auto* updated_there = reinterpret_cast<uint32_t*>(updated_there_.data());
    ops::adamw({.weight_N = values(slice.parameter->weight.f32() + slice.begin),
                .m_N = values(slice.exp_avg),
                .v_N = values(slice.exp_avg_sq),
                .gradient_N = gradient(slice),
                .lr = static_cast<float>(lr * slice.lr_scale),
                .beta1 = static_cast<float>(config_.betas[0]),
                .beta2 = static_cast<float>(config_.betas[1]),
                .eps = static_cast<float>(config_.eps),
                .weight_decay = static_cast<float>(slice.weight_decay),
                .clip = static_cast<float>(clip),
                .bias_correction1 = static_cast<float>(corrections.first),
                .bias_correction2 = static_cast<float>(corrections.second),
                .changed = updated_there == nullptr ? &slice.updated : updated_there + i});
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
  if (store_.device() == Device::cpu) return;
  const Tensor there = part(updated_there_, DType::i32, 0, static_cast<int64_t>(slices_.size()));
  const HostCopy updated(there);
  for (size_t i = 0; i < slices_.size(); ++i) {
    if (updated.i32()[i] != 0) slices_[i].updated = 1;
  }
  set_zero(there);
}

}  // namespace engine::train
