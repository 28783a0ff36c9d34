// The ops of a mixture-of-experts block one after the other, forward and backward, by one function for both devices:
// what one op writes is what the next expects, and nothing waits but for the numbers of rows.
#include "engine/ops/grouped_matmul.h"
#include "engine/ops/matmul.h"
#include "engine/ops/residual_add.h"
#include "engine/ops/rms_norm.h"
#include "engine/ops/swiglu.h"
#include "moe/expert_order.h"
#include "moe/permute.h"
#include "moe/router.h"
#include "tests/support/device.h"

namespace {

using namespace engine;
using test::Results;

constexpr int64_t T = 40, D = 24, E = 5, K = 2, F = 18;

// Memory on either device.
class Array {
 public:
  Array(Device device, std::initializer_list<int64_t> dims, DType dtype = DType::f32)
      : memory_(dtype, dims, device), device_(device) {}
  Array(Device device, std::initializer_list<int64_t> dims, const std::vector<float>& values) : Array(device, dims) {
    if (device == Device::cuda) {
      copy_to_device(memory_.view.data, values.data(), memory_.memory.bytes());
    } else {
      std::memcpy(memory_.view.data, values.data(), values.size() * sizeof(float));
    }
  }
  operator Tensor() const { return memory_.view; }
  operator ConstTensor() const { return memory_.view; }
  Tensor view() const { return memory_.view; }
  template <class X>
  std::vector<X> host() const {
    std::vector<X> values(static_cast<size_t>(memory_.view.num_elements()));
    if (device_ == Device::cuda) {
      copy_to_host(values.data(), memory_.view.data, memory_.memory.bytes());
    } else {
      std::memcpy(values.data(), memory_.view.data, values.size() * sizeof(X));
    }
    return values;
  }
  WeightGradient gradient() const { return {.chain = memory_.view, .sum = nullptr, .grid = 0, .max_bits = nullptr}; }

 private:
  OwnedTensor memory_;
  Device device_;
};

Array packed(const Array& weight) {
  const Tensor w = weight.view();
  Array result(w.device, {ops::packed_weight_elements(w.rows(), w.columns(), w.device)});
  ops::pack_weight({.packed = result, .weight_ND = w});
  return result;
}

// The same weight of every expert, with what the grouped products need of it.
struct ExpertWeights {
  ExpertWeights(Device device, int64_t rows, int64_t columns, const std::vector<std::vector<float>>& values) {
    for (const std::vector<float>& v : values) {
      weights.emplace_back(device, std::initializer_list<int64_t>{rows, columns}, v);
      weight_views.push_back(weights.back());
      packs.push_back(packed(weights.back()));
      chains.emplace_back(device, std::initializer_list<int64_t>{rows, columns});
      pack_views.push_back(packs.back());
      gradients.push_back(chains.back().gradient());
    }
  }
  std::vector<Array> weights, packs, chains;
  std::vector<ConstTensor> weight_views, pack_views;
  std::vector<WeightGradient> gradients;
};

struct Inputs {
  std::vector<float> x, dr, norm, router;
  std::vector<std::vector<float>> gate, up, down;
};

void forward_product(const Tensor& y, const ConstTensor& x, const ExpertWeights& w,
                     const std::vector<int64_t>& offsets) {
  ops::grouped_matmul_forward(
      {.y_RN = y, .x_RD = x, .packed_weights_e = w.pack_views.data(), .offsets_e = offsets.data(), .num_experts = E});
}
void backward_product(const Tensor& dx, const ConstTensor& dy, const ConstTensor& x, const ExpertWeights& w,
                      const std::vector<int64_t>& offsets, bool accumulate) {
  ops::grouped_matmul_backward_input({.dx_RD = dx,
                                      .dy_RN = dy,
                                      .weights_eND = w.weight_views.data(),
                                      .offsets_e = offsets.data(),
                                      .num_experts = E,
                                      .accumulate = accumulate});
  std::vector<int64_t> granule_offsets;
  for (size_t e = 0; e < static_cast<size_t>(E); ++e) {
    granule_offsets.push_back(offsets[e]);
    granule_offsets.push_back(offsets[e + 1]);
  }
  ops::grouped_matmul_backward_weight({.dweights_eND = w.gradients.data(),
                                       .x_RD = x,
                                       .dy_RN = dy,
                                       .granule_offsets = granule_offsets.data(),
                                       .num_experts = E,
                                       .num_granules = 1});
}

// r = x + sum_k weight[k] * expert_k(norm(x)), and the gradients of <r, dr>.
Results run_block(Device device, const Inputs& in) {
  const moe::RouterOptions options{.normalize = true, .scaling = 1.5f};
  const test::Granules granules({T});
  Array x(device, {T, D}, in.x), norm(device, {D}, in.norm), router(device, {E, D}, in.router);
  Array h(device, {T, D}), rstd(device, {T}), logits(device, {T, E}), scores(device, {T, E}), weights(device, {T, K});
  Array idx(device, {T, K}, DType::i32), lse(device, {T}), entropy(device, {T});
  ExpertWeights gate(device, F, D, in.gate), up(device, F, D, in.up), down(device, D, F, in.down);

  ops::rms_norm_forward({.y_TD = h, .rstd_T = rstd, .x_TD = x, .weight_D = norm});
  const Array packed_router = packed(router);
  ops::matmul_forward({.y_TN = logits, .x_TD = h, .packed_weight = packed_router});
  moe::router_forward({.scores_TE = scores,
                       .topk_weights_TK = weights,
                       .topk_idx_TK = idx,
                       .lse_T = lse,
                       .entropy_T = entropy,
                       .logits_TE = logits,
                       .bias_E = {},
                       .options = options});
  Array tokens(device, {T * K}, DType::i32), slots(device, {T * K}, DType::i32), rows(device, {T * K}, DType::i32);
  Array row_offsets(device, {E + 1}, DType::i64);
  moe::expert_order({.tokens_N = tokens.view().i32(),
                     .slots_N = slots.view().i32(),
                     .rows_TK = rows.view().i32(),
                     .offsets = row_offsets.view().i64(),
                     .topk_idx_TK = idx,
                     .num_experts = E});
  const std::vector<int64_t> offsets = row_offsets.host<int64_t>();
  const int64_t N = offsets.back();

  Array sent(device, {N, D}), gated(device, {N, F}), upped(device, {N, F}), active(device, {N, F}), out(device, {N, D});
  Array y(device, {T, D}), scales(device, {N, 1}), r(device, {T, D}, in.x);
  moe::permute({.y_ND = sent, .x_TD = h, .rows = tokens.view().i32()});
  forward_product(gated, sent, gate, offsets);
  forward_product(upped, sent, up, offsets);
  ops::swiglu_forward({.y_RF = active, .gate_RF = gated, .up_RF = upped});
  forward_product(out, active, down, offsets);
  moe::unpermute(
      {.y_TD = y, .x_ND = out, .rows_TK = rows.view().i32(), .weights_TK = weights.view().f32(), .num_slots = K});
  ops::residual_add({.x_TD = r, .y_TD = y});

  Array dr(device, {T, D}, in.dr), dx(device, {T, D}, in.dr), dh(device, {T, D}), dnorm(device, {D});
  Array dweights(device, {T, K}), dlogits(device, {T, E}), drouter(device, {E, D});
  Array dout(device, {N, D}), dactive(device, {N, F}), dsent(device, {N, D});
  const Tensor w = weights.view();
  moe::unpermute_weights_backward({.dweights_TK = dweights, .dy_TD = dr, .x_ND = out, .rows_TK = rows.view().i32()});
  moe::permute({.y_ND = scales, .x_TD = Tensor(w.data, DType::f32, {T * K, 1}, device), .rows = slots.view().i32()});
  moe::permute({.y_ND = dout, .x_TD = dr, .rows = tokens.view().i32(), .scales = scales.view().f32()});
  backward_product(dactive, dout, active, down, offsets, false);
  ops::swiglu_backward({.dgate_RF = gated, .dup_RF = upped, .dy_RF = dactive, .gate_RF = gated, .up_RF = upped});
  backward_product(dsent, gated, sent, gate, offsets, false);
  backward_product(dsent, upped, sent, up, offsets, true);
  moe::unpermute({.y_TD = dh, .x_ND = dsent, .rows_TK = rows.view().i32(), .num_slots = K});
  moe::router_backward({.dlogits_TE = dlogits,
                        .dtopk_weights_TK = dweights,
                        .scores_TE = scores,
                        .topk_idx_TK = idx,
                        .logits_TE = logits,
                        .lse_T = lse,
                        .balance = {},
                        .options = options});
  ops::matmul_backward_input({.dx_TD = dh, .dy_TN = dlogits, .weight_ND = router, .accumulate = true});
  ops::matmul_backward_weight(
      {.dweight_ND = drouter.gradient(), .x_TD = h, .dy_TN = dlogits, .granules = granules.rows});
  ops::rms_norm_backward({.dx_TD = dx,
                          .dweight_D = dnorm.gradient(),
                          .dy_TD = dh,
                          .x_TD = x,
                          .weight_D = norm,
                          .rstd_T = rstd,
                          .granules = granules.rows});
  Results results = {r.host<float>(), dx.host<float>(), dnorm.host<float>(), drouter.host<float>()};
  for (const ExpertWeights* expert : {&gate, &up, &down}) {
    for (const Array& chain : expert->chains) results.push_back(chain.host<float>());
  }
  return results;
}

}  // namespace

TEST_CASE("cuda: a mixture-of-experts block, forward and backward, is that of the CPU") {
  Inputs in{.x = test::fresh_values(T * D, DType::f32),
            .dr = test::fresh_values(T * D, DType::f32),
            .norm = test::fresh_values(D, DType::f32),
            .router = test::fresh_values(E * D, DType::f32),
            .gate = {},
            .up = {},
            .down = {}};
  for (int64_t e = 0; e < E; ++e) {
    in.gate.push_back(test::fresh_values(F * D, DType::f32));
    in.up.push_back(test::fresh_values(F * D, DType::f32));
    in.down.push_back(test::fresh_values(D * F, DType::f32));
  }
  const Results cpu = run_block(Device::cpu, in);
  const Results device = test::same_in_every_order([&] { return run_block(Device::cuda, in); });
  REQUIRE(device.size() == cpu.size());
  for (size_t i = 0; i < cpu.size(); ++i) {
    test::check_close(device[i], cpu[i], 1e-4, "result " + std::to_string(i));
  }
}
