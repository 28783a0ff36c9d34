// Linear: a product with a weight, and a bias where there is one.
#pragma once

#include "engine/nn/packed_weight.h"
#include "engine/nn/parameters.h"

namespace engine::nn {

class Linear {
 public:
  // Registers spec (dims [N, D]) as the weight; with `bias` also a bias [N] named after it (.weight -> .bias),
  // zero at first and without decay.
  Linear(ParameterStore& store, ParameterSpec spec, bool bias = false);
  // Shares a weight that is registered already.
  Linear(ParameterStore& store, Parameter& weight) : store_(store), weight_(&weight) {}

  // y[t,n] = bias[n] + sum_d x[t,d] * weight[n,d]
  void forward(ConstTensor x_TD, Tensor y_TN);
  // dx[t,d] = sum_n dy[t,n] * weight[n,d]; `accumulate` adds to dx instead.
  void backward_input(ConstTensor dy_TN, Tensor dx_TD, bool accumulate);
  // The gradients of weight and bias add.
  void backward_weight(ConstTensor x_TD, ConstTensor dy_TN, const GranuleRows& granules) const;

  int64_t outputs() const { return weight_->spec.dims[0]; }

 private:
  ParameterStore& store_;
  Parameter* weight_;
  Parameter* bias_ = nullptr;
  PackedWeight packed_;
};

}  // namespace engine::nn
