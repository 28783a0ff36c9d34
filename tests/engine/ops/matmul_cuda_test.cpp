// Products on a device against their CPU twins.
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
