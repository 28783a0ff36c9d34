// Products on a device against their CPU twins.
#include "engine/ops/grouped_matmul.h"
#include "engine/ops/matmul.h"
#include "tests/support/device.h"
#include "tests/support/packed.h"

namespace {

using namespace engine;
using test::DeviceGradient;
using test::DeviceTensor;
using test::flat;
using test::fresh_values;
using test::packed;
using test::poisoned;
using test::Results;
using test::tensor;

std::vector<float> as_floats(const std::vector<double>& sums) {
  return {sums.begin(), sums.end()};
}

}  // namespace

TEST_CASE("cuda: matmul forward with and without bias, and backward, over strided rows") {
  struct Case {
    int64_t T, N, D;
  };
  test::for_each_storage([](DType storage) {
    for (auto [T, N, D] : {Case{1, 1, 1}, Case{5, 7, 3}, Case{70, 20, 33}, Case{0, 4, 4}}) {
      const int64_t wide = D + 5;
      const auto x = fresh_values(T * wide, storage), weight = fresh_values(N * D, storage);
      const auto bias = fresh_values(N, DType::f32), dy = fresh_values(T * N, storage);
      const auto dx_before = fresh_values(T * D, storage);
      auto columns = [D = D](Tensor t) { return t.slice_columns(3, D); };
      const ConstTensor x_TD = columns(tensor(const_cast<std::vector<float>&>(x), {T, wide}));
      const auto panels = packed(weight, N, D);
      const ConstTensor packed_weight = flat(panels), weight_ND = tensor(weight, {N, D});
      std::vector<float> y = poisoned(T * N), y_bias = y, dx = poisoned(T * D), dx_added = dx_before;
      test::ExactGradient dweight({N, D}, 256), dbias({N}, 256);
      const test::Granules granules({T / 2, T - T / 2});
      ops::matmul_forward({.y_TN = tensor(y, {T, N}), .x_TD = x_TD, .packed_weight = packed_weight});
      ops::matmul_forward(
          {.y_TN = tensor(y_bias, {T, N}), .x_TD = x_TD, .packed_weight = packed_weight, .bias_N = tensor(bias, {N})});
      ops::matmul_backward_input({.dx_TD = tensor(dx, {T, D}), .dy_TN = tensor(dy, {T, N}), .weight_ND = weight_ND});
      ops::matmul_backward_input(
          {.dx_TD = tensor(dx_added, {T, D}), .dy_TN = tensor(dy, {T, N}), .weight_ND = weight_ND, .accumulate = true});
      ops::matmul_backward_weight(
          {.dweight_ND = dweight.gradient(), .x_TD = x_TD, .dy_TN = tensor(dy, {T, N}), .granules = granules.rows});
      ops::bias_backward({.dbias_N = dbias.gradient(), .dy_TN = tensor(dy, {T, N}), .granules = granules.rows});
      const Results cpu = {y, y_bias, dx, dx_added, as_floats(dweight.sum), as_floats(dbias.sum)};
      test::check_parity(
          "matmul", storage, cpu,
          [&]() -> Results {
            DeviceTensor wide_d(x, {T, wide}, storage), master_d(weight, {N, D}), bias_d(bias, {N});
            DeviceTensor dy_d(dy, {T, N}, storage), y_d({T, N}, storage), y_bias_d({T, N}, storage);
            DeviceTensor dx_d({T, D}, storage), dx_added_d(dx_before, {T, D}, storage);
            DeviceTensor packed_d({ops::packed_weight_elements(N, D, Device::cuda)}, storage);
            DeviceTensor weight_d(weight, {N, D}, storage);
            DeviceGradient dweight_d({N, D}, 256), dbias_d({N}, 256);
            const ConstTensor x_d = columns(wide_d);
            ops::pack_weight({.packed = packed_d, .weight_ND = master_d});
            ops::matmul_forward({.y_TN = y_d, .x_TD = x_d, .packed_weight = packed_d});
            ops::matmul_forward({.y_TN = y_bias_d, .x_TD = x_d, .packed_weight = packed_d, .bias_N = bias_d});
            ops::matmul_backward_input({.dx_TD = dx_d, .dy_TN = dy_d, .weight_ND = weight_d});
            ops::matmul_backward_input({.dx_TD = dx_added_d, .dy_TN = dy_d, .weight_ND = weight_d, .accumulate = true});
            ops::matmul_backward_weight(
                {.dweight_ND = dweight_d.gradient(), .x_TD = x_d, .dy_TN = dy_d, .granules = granules.rows});
            ops::bias_backward({.dbias_N = dbias_d.gradient(), .dy_TN = dy_d, .granules = granules.rows});
            return {y_d.host(), y_bias_d.host(), dx_d.host(), dx_added_d.host(), dweight_d.sum(), dbias_d.sum()};
          },
          1e-2);  // of one element, whose terms are of the order of one, nothing may be left
    }
  });
}

TEST_CASE("cuda: grouped_matmul with uneven and idle experts over granules") {
  const int64_t E = 4, N = 9, D = 13, G = 2;
  const std::vector<int64_t> offsets = {0, 17, 17, 18, 40};
  const std::vector<int64_t> granule_offsets = {0, 10, 17, 17, 17, 17, 17, 17, 18, 18, 30, 40};
  const int64_t R = offsets.back();
  test::for_each_storage([&](DType storage) {
    const auto x = fresh_values(R * D, storage), dy = fresh_values(R * N, storage);
    std::vector<std::vector<float>> weights, panels;
    std::vector<ConstTensor> forward_views, gradient_views;
    std::vector<test::ChainGradient> dweights(static_cast<size_t>(E), test::ChainGradient({N, D}));
    std::vector<WeightGradient> gradients;
    for (int64_t e = 0; e < E; ++e) {
      weights.push_back(fresh_values(N * D, storage));
      panels.push_back(packed(weights.back(), N, D));
    }
    for (size_t e = 0; e < static_cast<size_t>(E); ++e) {
      forward_views.push_back(flat(panels[e]));
      gradient_views.push_back(tensor(weights[e], {N, D}));
      gradients.push_back(dweights[e].gradient());
      gradients.back().chain.data = dweights[e].data.data();
    }
    auto run = [&](const Tensor& y_RN, const Tensor& dx_RD, const ConstTensor& x_RD, const ConstTensor& dy_RN,
                   const std::vector<ConstTensor>& for_forward, const std::vector<ConstTensor>& for_gradient,
                   const std::vector<WeightGradient>& weight_gradients) {
      ops::grouped_matmul_forward({.y_RN = y_RN,
                                   .x_RD = x_RD,
                                   .packed_weights_e = for_forward.data(),
                                   .offsets_e = offsets.data(),
                                   .num_experts = E});
      ops::grouped_matmul_backward_input({.dx_RD = dx_RD,
                                          .dy_RN = dy_RN,
                                          .weights_eND = for_gradient.data(),
                                          .offsets_e = offsets.data(),
                                          .num_experts = E});
      ops::grouped_matmul_backward_weight({.dweights_eND = weight_gradients.data(),
                                           .x_RD = x_RD,
                                           .dy_RN = dy_RN,
                                           .granule_offsets = granule_offsets.data(),
                                           .num_experts = E,
                                           .num_granules = G});
    };
    std::vector<float> y = poisoned(R * N), dx = poisoned(R * D);
    run(tensor(y, {R, N}), tensor(dx, {R, D}), tensor(x, {R, D}), tensor(dy, {R, N}), forward_views, gradient_views,
        gradients);
    Results cpu = {y, dx};
    for (const auto& dweight : dweights) cpu.push_back(dweight.data);
    test::check_parity("grouped_matmul", storage, cpu, [&]() -> Results {
      DeviceTensor x_d(x, {R, D}, storage), dy_d(dy, {R, N}, storage), y_d({R, N}, storage), dx_d({R, D}, storage);
      std::vector<DeviceTensor> weights_d;
      std::vector<DeviceGradient> dweights_d;
      std::vector<ConstTensor> views;
      std::vector<WeightGradient> gradients_d;
      for (size_t e = 0; e < static_cast<size_t>(E); ++e) {
        weights_d.emplace_back(weights[e], std::initializer_list<int64_t>{N, D}, storage);
        dweights_d.emplace_back(std::initializer_list<int64_t>{N, D});
        views.push_back(weights_d.back());
        gradients_d.push_back(dweights_d.back().gradient());
      }
      run(y_d, dx_d, x_d, dy_d, views, views, gradients_d);
      Results results = {y_d.host(), dx_d.host()};
      for (const DeviceGradient& dweight : dweights_d) results.push_back(dweight.chain());
      return results;
    });
  });
}
