#include "engine/nn/dense_ffn.h"

#include "engine/ops/swiglu.h"

namespace engine::nn {

DenseFfn::DenseFfn(ParameterStore& store, const std::string& prefix, int64_t layer, int64_t hidden_size, int64_t width,
                   const FfnInit& init)
    : width_(width),
      gate_(store, {.name = prefix + ".gate_proj.weight",
                    .dims = {width, hidden_size},
                    .deviation = init.deviation,
                    .layer = layer}),
      up_(store, {.name = prefix + ".up_proj.weight",
                  .dims = {width, hidden_size},
                  .deviation = init.deviation,
                  .layer = layer}),
      down_(store, {.name = prefix + ".down_proj.weight",
                    .dims = {hidden_size, width},
                    .deviation = init.down_deviation,
                    .layer = layer}) {}

void DenseFfn::plan(ArenaPlan& plan, int64_t max_rows) {
  ArenaPlan::Frame frame(plan);
  gate_out_ = plan.saved("gate_TF", plan.activations(), {max_rows, width_});
  up_out_ = plan.saved("up_TF", plan.activations(), {max_rows, width_});
  activation_ = plan.saved("activation_TF", plan.activations(), {max_rows, width_});
  dactivation_ = plan.scratch("dactivation_TF", plan.activations(), {max_rows, width_});
}

void DenseFfn::forward(const Pass& pass, ConstTensor x_TD, Tensor y_TD) {
  const int64_t T = pass.num_rows();
  Tensor gate_TF = pass.arena->view(gate_out_, T), up_TF = pass.arena->view(up_out_, T);
  Tensor activation_TF = pass.arena->view(activation_, T);
  gate_.forward(x_TD, gate_TF);
  up_.forward(x_TD, up_TF);
  ops::swiglu_forward({.y_RF = activation_TF, .gate_RF = gate_TF, .up_RF = up_TF});
  down_.forward(activation_TF, y_TD);
}

void DenseFfn::backward(const Pass& pass, ConstTensor x_TD, ConstTensor dy_TD, Tensor dx_TD) {
  const int64_t T = pass.num_rows();
  Tensor gate_TF = pass.arena->view(gate_out_, T), up_TF = pass.arena->view(up_out_, T);
  Tensor dactivation_TF = pass.arena->view(dactivation_, T);
  down_.backward_input(dy_TD, dactivation_TF, false);
  down_.backward_weight(pass.arena->view(activation_, T), dy_TD, pass.granules);
  // gate and up are used up: their gradients take their place
  ops::swiglu_backward(
      {.dgate_RF = gate_TF, .dup_RF = up_TF, .dy_RF = dactivation_TF, .gate_RF = gate_TF, .up_RF = up_TF});
  gate_.backward_input(gate_TF, dx_TD, false);
  up_.backward_input(up_TF, dx_TD, true);
  gate_.backward_weight(x_TD, gate_TF, pass.granules);
  up_.backward_weight(x_TD, up_TF, pass.granules);
}

}  // namespace engine::nn
