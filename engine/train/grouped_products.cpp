#include "engine/train/grouped_products.h"

#include "engine/ops/grouped_matmul.h"

namespace engine::train {
namespace {

// Of one projection of all experts of a rank; granules of other ranks' tokens come on top of those of a pass.
struct Shape {
  int64_t R, experts, granules, N, D;
};

GroupedProduct::Run forward(const Shape& s, Operands& o) {
  std::vector<ConstTensor> weights_e;
  for (int64_t e = 0; e < s.experts; ++e) weights_e.push_back(o.packed(s.N, s.D));
  ops::GroupedMatmulForward a{.y_RN = o.rows({s.R, s.N}),
                              .x_RD = o.rows({s.R, s.D}),
                              .offsets_e = o.offsets(s.R, s.experts),
                              .num_experts = s.experts};
  return [a, weights_e](ops::GroupedWay way) mutable {
    a.packed_weights_e = weights_e.data();
    a.way = way;
    ops::grouped_matmul_forward(a);
  };
}

GroupedProduct::Run input_gradient(const Shape& s, Operands& o) {
  std::vector<ConstTensor> weights_e;
  for (int64_t e = 0; e < s.experts; ++e) weights_e.push_back(o.rows({s.N, s.D}));
  ops::GroupedMatmulBackwardInput a{.dx_RD = o.rows({s.R, s.D}),
                                    .dy_RN = o.rows({s.R, s.N}),
                                    .offsets_e = o.offsets(s.R, s.experts),
                                    .num_experts = s.experts};
  return [a, weights_e](ops::GroupedWay way) mutable {
    a.weights_eND = weights_e.data();
    a.way = way;
    ops::grouped_matmul_backward_input(a);
  };
}

GroupedProduct::Run weight_gradient(const Shape& s, Operands& o) {
  std::vector<WeightGradient> gradients_e;
  for (int64_t e = 0; e < s.experts; ++e) gradients_e.push_back(o.gradient({s.N, s.D}));
  // expert by expert, granule by granule, where each granule of an expert begins; its end is the next's begin
  const int64_t* all_parts = o.offsets(s.R, s.experts * s.granules);
  std::vector<int64_t> offsets;
  for (int64_t e = 0; e < s.experts; ++e) {
    for (int64_t g = 0; g <= s.granules; ++g) offsets.push_back(all_parts[e * s.granules + g]);
  }
  ops::GroupedMatmulBackwardWeight a{.x_RD = o.rows({s.R, s.D}),
                                     .dy_RN = o.rows({s.R, s.N}),
                                     .num_experts = s.experts,
                                     .num_granules = s.granules,
                                     .ends = true,
                                     .begins = true};
  return [a, gradients_e, offsets](ops::GroupedWay way) mutable {
    a.dweights_eND = gradients_e.data();
    a.granule_offsets = offsets.data();
    a.way = way;
    ops::grouped_matmul_backward_weight(a);
  };
}

}  // namespace

std::vector<GroupedProduct> grouped_products(const StepShapes& shapes, const std::string& projection, int64_t N,
                                             int64_t D) {
  const Shape s{shapes.R, shapes.experts, shapes.granules * shapes.layout.ep_size, N, D};
  const double r = static_cast<double>(s.R), n = static_cast<double>(N), d = static_cast<double>(D);
  const double weights = static_cast<double>(s.experts) * n * d, flops = 2 * r * n * d, rows = 4 * (r * d + r * n);
  const DType stored = shapes.layout.activations();
  const auto with = [s](auto make) { return [s, make](Operands& o) { return make(s, o); }; };
  return {{projection + " forward", true, stored, stored, flops, rows + 4 * weights, with(forward)},
          {projection + " input gradient", false, stored, stored, flops, rows + 4 * weights, with(input_gradient)},
          {projection + " weight gradient", false, stored, DType::f32, flops,
           rows + 16 * weights * static_cast<double>(s.granules), with(weight_gradient)}};
}

}  // namespace engine::train
