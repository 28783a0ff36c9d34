// A weight's copy in the layout of the forward product, made again whenever the weights have changed.
#pragma once

#include "engine/core/buffer.h"
#include "engine/nn/parameters.h"
#include "engine/ops/matmul.h"

namespace engine::nn {

class PackedWeight {
 public:
  // The packed copy of the weight as it is now, for a product whose other operand is stored as `dtype`.
  ConstTensor get(ParameterStore& store, const Parameter& parameter, DType dtype) {
    if (store.device() == Device::cuda) return store.as(dtype, parameter);
    if (version_ == store.version() && target_ == cpu_target()) return view_;
    const int64_t elements = ops::packed_weight_elements(parameter.weight.rows(), parameter.weight.columns());
    if (memory_.bytes() != elements * 4) {
      store.count_packed(elements * 4 - memory_.bytes());
      memory_ = Buffer(elements * 4);
    }
    view_ = Tensor(memory_.data(), DType::f32, {elements});
    ops::pack_weight({.packed = view_, .weight_ND = parameter.weight});
    version_ = store.version();
    target_ = cpu_target();
    return view_;
  }

 private:
  Buffer memory_;
  Tensor view_;
  uint64_t version_ = 0;
  CpuTarget target_ = CpuTarget::portable;
};

}  // namespace engine::nn
