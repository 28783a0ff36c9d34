#include "engine/nn/parameters.h"

#include <algorithm>
#include <utility>

#include "engine/core/device.h"
#include "engine/core/error.h"
#include "engine/core/rng.h"
#include "engine/core/thread_pool.h"
#include "engine/core/transfer.h"
#include "engine/ops/convert.h"

namespace engine::nn {
namespace {

// Without memory where the buffer has none.
Tensor view(const Buffer& memory, int64_t begin, const std::vector<int64_t>& dims) {
  Tensor tensor(memory.data() == nullptr ? nullptr : memory.data() + begin * 4, DType::f32, {}, memory.device());
  for (int64_t dim : dims) tensor.dims[tensor.num_dims++] = dim;
  tensor.row_stride = tensor.columns();
  return tensor;
}

}  // namespace

Tensor ParameterBlock::gradient(int64_t begin, int64_t end) const {
  const bool exact = sums.bytes() > 0;
  const Buffer& memory = exact ? sums : chains;
  const DType dtype = exact ? DType::f64 : DType::f32;
  return Tensor(memory.data() + begin * dtype_bytes(dtype), dtype, {end - begin}, memory.device());
}

Parameter& ParameterStore::add(ParameterSpec spec) {
  ENSURE(find(spec.name) == nullptr, "weight ", spec.name, " is registered twice");
  ENSURE(!spec.dims.empty() && spec.dims.size() <= 4, "weight ", spec.name, " has ", spec.dims.size(), " dimensions");
  Parameter& parameter = all_.emplace_back();
  parameter.elements = 1;
  for (int64_t dim : spec.dims) parameter.elements *= dim;
  parameter.spec = std::move(spec);
  by_name_[parameter.spec.name] = &parameter;
  ParameterBlock& block = parameter.spec.is_expert ? expert_ : dense_;
  parameter.begin = block.elements;
  block.elements += (parameter.elements + kParameterBlock - 1) / kParameterBlock * kParameterBlock;
  block.members.push_back(&parameter);
  return parameter;
}

void ParameterStore::add_tied_gradient(Parameter& parameter) {
  ENSURE(!parameter.tied.chain.data, parameter.spec.name, " is tied twice");
  parameter.tied.chain = Tensor(nullptr, DType::f32, {parameter.elements});  // memory comes with commit()
}

void ParameterStore::commit(int64_t granules, bool for_training, bool whole_granules) {
  granules_ = granules;
  if (for_training && device_ == Device::cuda) {
    max_bits_ = Buffer(static_cast<int64_t>(all_.size()) * 4, device_);
    grids_there_ = Buffer(static_cast<int64_t>(all_.size()) * 8, device_);
    grids_.resize(all_.size());
  }
  for (ParameterBlock* block : {&dense_, &expert_}) {
    block->weights = Buffer(block->elements * 4, device_);
    const bool in_kernels = block == &expert_ && device_ == Device::cpu && granules > 1 && whole_granules;
    if (for_training && !in_kernels) block->chains = Buffer(block->elements * 4, device_);
    if (for_training && granules > 1) block->sums = Buffer(block->elements * 8, device_);
    for (Parameter* parameter : block->members) {
      const int64_t begin = parameter->begin;
      parameter->weight = view(block->weights, begin, parameter->spec.dims);
      if (!for_training) continue;
      parameter->gradient.chain = view(block->chains, begin, parameter->spec.dims);
      parameter->gradient.sum = granules > 1 ? block->sums.f64() + begin : nullptr;
      parameter->gradient.max_bits = &parameter->max_bits;
      if (parameter->tied.chain.num_dims == 0) continue;
      Buffer& chain = tied_chains_.emplace_back(parameter->elements * 4, device_);
      parameter->tied = parameter->gradient;
      parameter->tied.chain.data = chain.data();
    }
  }
  if (device_ != Device::cuda || !for_training) return;
  auto* max_bits = reinterpret_cast<uint32_t*>(max_bits_.data());
  const double* grid = grids_there_.f64();
  for (Parameter& parameter : all_) {
    parameter.gradient.max_bits = parameter.tied.max_bits = max_bits++;
    parameter.gradient.grid_there = parameter.tied.grid_there = grid++;
  }
}

void ParameterStore::begin_gradients() {
  if (device_ != Device::cuda) return;
  device_fill(max_bits_.data(), 0, max_bits_.bytes());
  for (size_t i = 0; i < grids_.size(); ++i) grids_[i] = all_[i].gradient.grid;
  copy_to_device(grids_there_.data(), grids_.data(), grids_there_.bytes());
}

void ParameterStore::fetch_max_bits() {
  if (device_ != Device::cuda) return;
  const HostCopy max_bits(ConstTensor(max_bits_.data(), DType::i32, {max_bits_.bytes() / 4}, device_));
  const int32_t* next = max_bits.i32();
  for (Parameter& parameter : all_) parameter.max_bits = static_cast<uint32_t>(*next++);
}

ConstTensor ParameterStore::as(DType dtype, const Parameter& parameter) {
  if (dtype == DType::f32) return parameter.weight;
  if (bf16_version_ != version_) {
    for (ParameterBlock* block : {&dense_, &expert_}) {
      if (block->elements == 0) continue;
      if (block->bf16_weights.bytes() == 0) {
        block->bf16_weights = Buffer(block->elements * 2, device_);
        count_packed(block->elements * 2);
      }
      ops::convert({.y_TD = Tensor(block->bf16_weights.data(), DType::bf16, {block->elements}, device_),
                    .x_TD = Tensor(block->weights.data(), DType::f32, {block->elements}, device_)});
    }
    bf16_version_ = version_;
  }
  const ParameterBlock& block = parameter.spec.is_expert ? expert_ : dense_;
  ConstTensor weight = parameter.weight;
  weight.data = block.bf16_weights.data() + parameter.begin * 2;
  weight.dtype = DType::bf16;
  return weight;
}

void ParameterStore::initialize(uint64_t seed) {
  for (Parameter& parameter : all_) {
    HostEdit draft(parameter.weight, HostEdit::From::zeros);
    float* weight = draft.f32();
    const uint64_t key = derive_key(seed, "init/" + parameter.spec.name);
    parallel_ranges(parameter.elements, int64_t{1} << 16, [&](int64_t begin, int64_t end) {
      if (parameter.spec.init == Init::normal) {
        fill_normal(weight + begin, begin, end - begin, key, static_cast<float>(parameter.spec.deviation));
      } else {
        std::fill(weight + begin, weight + end, parameter.spec.init == Init::ones ? 1.0f : 0.0f);
      }
    });
    draft.put();
  }
  weights_changed();
}

Parameter* ParameterStore::find(const std::string& name) {
  auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : found->second;
}

}  // namespace engine::nn
