#include "engine/nn/linear.h"

#include <string>
#include <utility>

#include "engine/ops/matmul.h"

namespace engine::nn {

Linear::Linear(ParameterStore& store, ParameterSpec spec, bool bias) : store_(store) {
  ParameterSpec bias_spec = spec;
  weight_ = &store.add(std::move(spec));
  if (!bias) return;
  const std::string suffix = "weight";
  bias_spec.name.replace(bias_spec.name.size() - suffix.size(), suffix.size(), "bias");
  bias_spec.dims = {bias_spec.dims[0]};
  bias_spec.init = Init::zeros;
  bias_spec.decays = false;
  bias_ = &store.add(std::move(bias_spec));
}

void Linear::forward(ConstTensor x_TD, Tensor y_TN) {
  ops::matmul_forward({.y_TN = y_TN,
                       .x_TD = x_TD,
                       .packed_weight = packed_.get(store_, *weight_, x_TD.dtype),
                       .bias_N = bias_ == nullptr ? ConstTensor() : bias_->weight});
}

void Linear::backward_input(ConstTensor dy_TN, Tensor dx_TD, bool accumulate) {
  ops::matmul_backward_input(
      {.dx_TD = dx_TD, .dy_TN = dy_TN, .weight_ND = store_.as(dy_TN.dtype, *weight_), .accumulate = accumulate});
}

void Linear::backward_weight(ConstTensor x_TD, ConstTensor dy_TN, const GranuleRows& granules) const {
  ops::matmul_backward_weight({.dweight_ND = weight_->gradient, .x_TD = x_TD, .dy_TN = dy_TN, .granules = granules});
  if (bias_ != nullptr) ops::bias_backward({.dbias_N = bias_->gradient, .dy_TN = dy_TN, .granules = granules});
}

}  // namespace engine::nn
