#include "moe/experts.h"

#include <cmath>

#include "engine/ops/grouped_matmul.h"
#include "engine/ops/swiglu.h"

namespace moe {

namespace ops = engine::ops;

Experts::Experts(const engine::ModelConfig& config, int64_t layer, engine::nn::ParameterStore& store,
                 const std::vector<int64_t>& experts)
    : store_(store),
      hidden_size_(config.hidden_size),
      width_(config.moe_intermediate_size),
      storage_(store.activations()),
      input_(store.device()),
      gate_(store.device()),
      up_(store.device()),
      activation_(store.device()),
      output_(store.device()) {
  const double deviation = config.initializer_range;
  const double down = deviation / std::sqrt(2.0 * static_cast<double>(config.num_hidden_layers));
  for (int64_t e : experts) {
    const std::string prefix = "model.layers." + std::to_string(layer) + ".mlp.experts." + std::to_string(e) + ".";
    add(gate_proj_, prefix + "gate_proj.weight", width_, hidden_size_, deviation, layer);
    add(up_proj_, prefix + "up_proj.weight", width_, hidden_size_, deviation, layer);
    add(down_proj_, prefix + "down_proj.weight", hidden_size_, width_, down, layer);
  }
}

void Experts::add(Projection& projection, const std::string& name, int64_t rows, int64_t columns, double deviation,
                  int64_t layer) {
  projection.parameters_e.push_back(
      &store_.add({.name = name, .dims = {rows, columns}, .deviation = deviation, .is_expert = true, .layer = layer}));
  projection.packed_e.emplace_back();
  projection.views_e.emplace_back();
  projection.gradients_e.emplace_back();
}

void Experts::reserve(int64_t rows, ExpertWorkspace& workspace) {
  input_.reserve(storage_, rows, hidden_size_);
  gate_.reserve(storage_, rows, width_);
  up_.reserve(storage_, rows, width_);
  activation_.reserve(storage_, rows, width_);
  output_.reserve(storage_, rows, hidden_size_);
  workspace.dexpert_out.reserve(storage_, rows, hidden_size_);
  workspace.dactivation.reserve(storage_, rows, width_);
  workspace.dexpert_in.reserve(storage_, rows, hidden_size_);
}

Tensor Experts::input(int64_t num_rows) {
  return input_view_ = input_.view(storage_, num_rows, hidden_size_);
}

Experts::Part Experts::part_of(const TokenDispatcher& rows, int64_t chunk) {
  const int64_t first = rows.first_expert(chunk), count = rows.first_expert(chunk + 1) - first;
  const int64_t first_row = rows.offsets()[first];
  return {first, count, first_row, rows.offsets()[first + count] - first_row};
}

void Experts::product(Projection& projection, const TokenDispatcher& rows, const Part& part, ConstTensor x,
                      Tensor y) const {
  for (size_t e = static_cast<size_t>(part.first); e < static_cast<size_t>(part.first + part.count); ++e) {
    projection.views_e[e] = projection.packed_e[e].get(store_, *projection.parameters_e[e], storage_);
  }
  ops::grouped_matmul_forward({.y_RN = y,
                               .x_RD = x,
                               .packed_weights_e = projection.views_e.data() + part.first,
                               .offsets_e = rows.offsets() + part.first,
                               .num_experts = part.count});
}

void Experts::input_gradient(Projection& projection, const TokenDispatcher& rows, const Part& part, ConstTensor dy,
                             Tensor dx, bool accumulate) const {
  for (size_t e = static_cast<size_t>(part.first); e < static_cast<size_t>(part.first + part.count); ++e) {
    projection.views_e[e] = store_.as(storage_, *projection.parameters_e[e]);
  }
  ops::grouped_matmul_backward_input({.dx_RD = dx,
                                      .dy_RN = dy,
                                      .weights_eND = projection.views_e.data() + part.first,
                                      .offsets_e = rows.offsets() + part.first,
                                      .num_experts = part.count,
                                      .accumulate = accumulate});
}

void Experts::weight_gradient(Projection& projection, const TokenDispatcher& rows, const Part& part, ConstTensor x,
                              ConstTensor dy, const engine::nn::Pass& pass) const {
  for (size_t e = 0; e < projection.gradients_e.size(); ++e) {
    projection.gradients_e[e] = projection.parameters_e[e]->gradient;
  }
  ops::grouped_matmul_backward_weight(
      {.dweights_eND = projection.gradients_e.data() + part.first,
       .x_RD = x,
       .dy_RN = dy,
       .granule_offsets = rows.granule_offsets() + part.first * (rows.num_granules() + 1),
       .num_experts = part.count,
       .num_granules = rows.num_granules(),
       .ends = pass.granules.ends,
       .begins = pass.granules.begins});
}

ConstTensor Experts::forward(const TokenDispatcher& rows, int64_t chunk) {
  const int64_t R = rows.num_rows();
  const Part part = part_of(rows, chunk);
  Tensor gate_RF = gate_.view(storage_, R, width_), up_RF = up_.view(storage_, R, width_);
  Tensor activation_RF = activation_.view(storage_, R, width_);
  output_view_ = output_.view(storage_, R, hidden_size_);
  if (part.count == 0) return output_view_;
  product(gate_proj_, rows, part, input_view_, gate_RF);
  product(up_proj_, rows, part, input_view_, up_RF);
  auto here = [&](Tensor tensor) { return tensor.slice_rows(part.first_row, part.rows); };
  ops::swiglu_forward({.y_RF = here(activation_RF), .gate_RF = here(gate_RF), .up_RF = here(up_RF)});
  product(down_proj_, rows, part, activation_RF, output_view_);
  return output_view_;
}

ConstTensor Experts::backward(const engine::nn::Pass& pass, const TokenDispatcher& rows, int64_t chunk,
                              ConstTensor dexpert_out_RD, ExpertWorkspace& workspace) {
  const int64_t R = rows.num_rows();
  const Part part = part_of(rows, chunk);
  Tensor gate_RF = gate_.view(storage_, R, width_), up_RF = up_.view(storage_, R, width_);
  Tensor activation_RF = activation_.view(storage_, R, width_);
  Tensor dactivation_RF = workspace.dactivation.view(storage_, R, width_);
  Tensor dexpert_in_RD = workspace.dexpert_in.view(storage_, R, hidden_size_);
  if (part.count == 0) return dexpert_in_RD;
  input_gradient(down_proj_, rows, part, dexpert_out_RD, dactivation_RF, false);
  weight_gradient(down_proj_, rows, part, activation_RF, dexpert_out_RD, pass);
  // gate and up are used up: their gradients take their place
  auto here = [&](Tensor tensor) { return tensor.slice_rows(part.first_row, part.rows); };
  ops::swiglu_backward({.dgate_RF = here(gate_RF),
                        .dup_RF = here(up_RF),
                        .dy_RF = here(dactivation_RF),
                        .gate_RF = here(gate_RF),
                        .up_RF = here(up_RF)});
  input_gradient(gate_proj_, rows, part, gate_RF, dexpert_in_RD, false);
  input_gradient(up_proj_, rows, part, up_RF, dexpert_in_RD, true);
  weight_gradient(gate_proj_, rows, part, input_view_, gate_RF, pass);
  weight_gradient(up_proj_, rows, part, input_view_, up_RF, pass);
  return dexpert_in_RD;
}

}  // namespace moe
