#include "engine/ops/grouped_matmul.h"

#include "engine/ops/matmul.h"
#include "tests/support/packed.h"

namespace {

using namespace engine;
using test::tensor;

// One expert alone.
std::vector<float> forward(const std::vector<float>& x, const std::vector<float>& panels, int64_t rows, int64_t N,
                           int64_t D) {
  auto y = test::poisoned(rows * N);
  ops::matmul_forward(
      {.y_TN = tensor(y, {rows, N}), .x_TD = tensor(x, {rows, D}), .packed_weight = test::flat(panels)});
  return y;
}

}  // namespace

TEST_CASE("grouped_matmul: every expert's rows and gradients are those of its own product, bit by bit") {
  const int64_t N = 21, D = 35, experts = 4;
  const std::vector<int64_t> offsets{0, 19, 19, 20, 52};  // one expert without rows, one with a single row
  const int64_t R = offsets.back();
  auto x = test::values(1, R * D), dy = test::values(3, R * N);
  ThreadPool pool(3);
  pool.make_current();
  test::for_each_cpu_target([&] {
    std::vector<std::vector<float>> weights, panels;
    std::vector<ConstTensor> packed_e, weights_e;
    for (uint64_t e = 0; e < experts; ++e) {
      weights.push_back(test::values(10 + e, N * D));
      panels.push_back(test::packed(weights.back(), N, D));
    }
    std::vector<test::ExactGradient> sums(experts, test::ExactGradient({N, D}, 64));
    std::vector<WeightGradient> gradients;
    for (size_t e = 0; e < experts; ++e) {
      packed_e.push_back(test::flat(panels[e]));
      weights_e.push_back(tensor(weights[e], {N, D}));
      WeightGradient gradient{.chain = Tensor(sums[e].chain.data.data(), DType::f32, {N, D}),
                              .sum = sums[e].sum.data(),
                              .grid = sums[e].grid,
                              .max_bits = &sums[e].chain.max_bits};
      gradients.push_back(gradient);
    }
    auto y = test::poisoned(R * N), dx = test::poisoned(R * D);
    ops::grouped_matmul_forward({.y_RN = tensor(y, {R, N}),
                                 .x_RD = tensor(x, {R, D}),
                                 .packed_weights_e = packed_e.data(),
                                 .offsets_e = offsets.data(),
                                 .num_experts = experts});
    ops::grouped_matmul_backward_input({.dx_RD = tensor(dx, {R, D}),
                                        .dy_RN = tensor(dy, {R, N}),
                                        .weights_eND = weights_e.data(),
                                        .offsets_e = offsets.data(),
                                        .num_experts = experts});
    std::vector<int64_t> granules;  // two granules, cut in the middle of each expert's rows
    for (size_t e = 0; e < experts; ++e) {
      granules.insert(granules.end(), {offsets[e], (offsets[e] + offsets[e + 1]) / 2, offsets[e + 1]});
    }
    ops::grouped_matmul_backward_weight({.dweights_eND = gradients.data(),
                                         .x_RD = tensor(x, {R, D}),
                                         .dy_RN = tensor(dy, {R, N}),
                                         .granule_offsets = granules.data(),
                                         .num_experts = experts,
                                         .num_granules = 2});
    for (size_t e = 0; e < experts; ++e) {
      const int64_t begin = offsets[e], rows = offsets[e + 1] - begin;
      std::vector<float> x_e(x.begin() + begin * D, x.begin() + (begin + rows) * D);
      test::check_same_bits({y.begin() + begin * N, y.begin() + (begin + rows) * N},
                            forward(x_e, panels[e], rows, N, D), "y");
      auto dx_e = test::poisoned(rows * D);
      ops::matmul_backward_input({.dx_TD = tensor(dx_e, {rows, D}),
                                  .dy_TN = tensor(dy, {R, N}).slice_rows(begin, rows),
                                  .weight_ND = weights_e[e]});
      test::check_same_bits({dx.begin() + begin * D, dx.begin() + (begin + rows) * D}, dx_e, "dx");
      test::ExactGradient alone({N, D}, 64);
      test::Granules two({granules[e * 3 + 1] - begin, offsets[e + 1] - granules[e * 3 + 1]});
      ops::matmul_backward_weight({.dweight_ND = alone.gradient(),
                                   .x_TD = tensor(x, {R, D}).slice_rows(begin, rows),
                                   .dy_TN = tensor(dy, {R, N}).slice_rows(begin, rows),
                                   .granules = two.rows});
      CHECK(alone.sum == sums[e].sum);
    }
  });
}
