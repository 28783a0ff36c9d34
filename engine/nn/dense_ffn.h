// The SwiGLU feed-forward network of dense layers and shared experts: down(silu(gate x) * up x).
#pragma once

#include <string>

#include "engine/nn/layer.h"
#include "engine/nn/linear.h"

namespace engine::nn {

// Standard deviations of initial weights.
struct FfnInit {
  double deviation;       // gate and up
  double down_deviation;  // the projection back to the residual stream
};

class DenseFfn : public Layer {
 public:
  // Registers prefix.gate_proj.weight and .up_proj.weight [F, D] and .down_proj.weight [D, F].
  DenseFfn(ParameterStore& store, const std::string& prefix, int64_t layer, int64_t hidden_size, int64_t width,
           const FfnInit& init);
  void plan(ArenaPlan& plan, int64_t max_rows) override;
  void forward(const Pass& pass, ConstTensor x_TD, Tensor y_TD) override;
  void backward(const Pass& pass, ConstTensor x_TD, ConstTensor dy_TD, Tensor dx_TD) override;

 private:
  int64_t width_;
  Linear gate_, up_, down_;
  Slot gate_out_, up_out_, activation_, dactivation_;
};

}  // namespace engine::nn
