// The products of experts on a device, in each way it knows, against their CPU twins.
#include "engine/ops/grouped_matmul.h"

#include <deque>

#include "engine/ops/cuda_grouped_gemm.h"
#include "tests/support/device.h"
#include "tests/support/packed.h"

namespace {

using namespace engine;
using ops::GroupedWay;
using test::DeviceGradient;
using test::DeviceTensor;
using test::fresh_values;
using test::Results;
using test::tensor;

struct Case {
  const char* what;
  std::vector<std::vector<int64_t>> rows_eg;  // of each expert in each granule
  int64_t N, D;
  int64_t margin = 0;  // others' columns on both sides of each matrix of rows
  bool ends = true;
};

const Case kCases[] = {
    {"uneven and idle experts over two granules", {{10, 7}, {0, 0}, {1, 0}, {12, 10}}, 9, 13},
    {"all rows at one expert", {{0}, {37}, {0}, {0}}, 16, 24},
    {"a row each, at more experts than there are side streams", {{1}, {1}, {1}, {1}, {1}, {1}, {1}, {1}, {1}}, 16, 8},
    {"no rows at all", {{0, 0}, {0, 0}}, 8, 8},
    {"three granules", {{4, 0, 3}, {0, 5, 1}}, 8, 16},
    {"columns of wider rows, and a granule that goes on", {{5, 3}, {0, 2}, {8, 8}}, 16, 16, 8, false},
    {"bf16 results that begin at no multiple of 16 bytes", {{3}, {6}, {2}}, 9, 16},
};

// Inputs in host memory; rows with the columns beside them.
struct Problem {
  Problem(const Case& shape, DType stored) : c(shape), storage(stored) {
    for (const std::vector<int64_t>& rows_g : c.rows_eg) {
      granule_offsets.push_back(offsets.back());
      for (int64_t rows : rows_g) granule_offsets.push_back(granule_offsets.back() + rows);
      offsets.push_back(granule_offsets.back());
      weights.push_back(fresh_values(c.N * c.D, storage));
    }
    R = offsets.back(), wide_N = c.N + 2 * c.margin, wide_D = c.D + 2 * c.margin;
    x = fresh_values(R * wide_D, storage);
    dy = fresh_values(R * wide_N, storage);
    dx_before = fresh_values(R * wide_D, storage);
  }

  const Case& c;
  DType storage;
  std::vector<int64_t> offsets{0}, granule_offsets;
  int64_t R, wide_N, wide_D;
  std::vector<std::vector<float>> weights;
  std::vector<float> x, dy, dx_before;
};

// What the ops are given, on either device.
struct Operands {
  Tensor y, dx, dx_added, x, dy;  // wide
  std::vector<ConstTensor> packed_e, weights_e;
  std::vector<WeightGradient> gradients_e;
};

void run(const Problem& p, const Operands& o, GroupedWay way) {
  const auto own = [&](const Tensor& wide, int64_t columns) { return wide.slice_columns(p.c.margin, columns); };
  const auto experts = static_cast<int64_t>(p.weights.size());
  ops::grouped_matmul_forward({.y_RN = own(o.y, p.c.N),
                               .x_RD = own(o.x, p.c.D),
                               .packed_weights_e = o.packed_e.data(),
                               .offsets_e = p.offsets.data(),
                               .num_experts = experts,
                               .way = way});
  for (bool accumulate : {false, true}) {
    ops::grouped_matmul_backward_input({.dx_RD = own(accumulate ? o.dx_added : o.dx, p.c.D),
                                        .dy_RN = own(o.dy, p.c.N),
                                        .weights_eND = o.weights_e.data(),
                                        .offsets_e = p.offsets.data(),
                                        .num_experts = experts,
                                        .accumulate = accumulate,
                                        .way = way});
  }
  ops::grouped_matmul_backward_weight({.dweights_eND = o.gradients_e.data(),
                                       .x_RD = own(o.x, p.c.D),
                                       .dy_RN = own(o.dy, p.c.N),
                                       .granule_offsets = p.granule_offsets.data(),
                                       .num_experts = experts,
                                       .num_granules = static_cast<int64_t>(p.c.rows_eg[0].size()),
                                       .ends = p.c.ends,
                                       .way = way});
}

// The op's own columns of a result; those beside them have to be what they were, or as poisoned.
std::vector<float> own_columns(const Problem& p, const std::vector<float>& wide, int64_t columns,
                               const std::vector<float>& before = {}) {
  std::vector<float> own, others, others_before;
  for (size_t i = 0; i < wide.size(); ++i) {
    const int64_t column = static_cast<int64_t>(i) % (columns + 2 * p.c.margin) - p.c.margin;
    if (column >= 0 && column < columns) {
      own.push_back(wide[i]);
    } else {
      others.push_back(before.empty() ? static_cast<float>(std::isnan(wide[i])) : wide[i]);
      others_before.push_back(before.empty() ? 1.0f : before[i]);
    }
  }
  test::check_same_bits(others, others_before, "columns beside the result");
  return own;
}

Results on_cpu(const Problem& p) {
  std::vector<float> y = test::poisoned(p.R * p.wide_N), dx = test::poisoned(p.R * p.wide_D), dx_added = p.dx_before;
  std::vector<float> x = p.x, dy = p.dy;
  Operands o{tensor(y, {p.R, p.wide_N}),
             tensor(dx, {p.R, p.wide_D}),
             tensor(dx_added, {p.R, p.wide_D}),
             tensor(x, {p.R, p.wide_D}),
             tensor(dy, {p.R, p.wide_N}),
             {},
             {},
             {}};
  std::deque<std::vector<float>> panels;
  std::deque<test::ExactGradient> gradients;
  for (const std::vector<float>& weight : p.weights) {
    o.packed_e.push_back(test::flat(panels.emplace_back(test::packed(weight, p.c.N, p.c.D))));
    o.weights_e.push_back(tensor(weight, {p.c.N, p.c.D}));
    o.gradients_e.push_back(gradients.emplace_back(std::initializer_list<int64_t>{p.c.N, p.c.D}, 256).gradient());
  }
  run(p, o, ops::kGroupedWay);
  Results results = {own_columns(p, y, p.c.N), own_columns(p, dx, p.c.D), own_columns(p, dx_added, p.c.D, p.dx_before)};
  for (const test::ExactGradient& gradient : gradients) {
    results.emplace_back(gradient.sum.begin(), gradient.sum.end());
    if (!p.c.ends) results.push_back(gradient.chain.data);
  }
  return results;
}

Results on_device(const Problem& p, GroupedWay way) {
  DeviceTensor y({p.R, p.wide_N}, p.storage), dx({p.R, p.wide_D}, p.storage);
  DeviceTensor dx_added(p.dx_before, {p.R, p.wide_D}, p.storage), x(p.x, {p.R, p.wide_D}, p.storage);
  DeviceTensor dy(p.dy, {p.R, p.wide_N}, p.storage);
  Operands o{y, dx, dx_added, x, dy, {}, {}, {}};
  std::deque<DeviceTensor> weights;
  std::deque<DeviceGradient> gradients;
  const std::initializer_list<int64_t> dims = {p.c.N, p.c.D};
  for (const std::vector<float>& weight : p.weights) {
    o.weights_e.push_back(weights.emplace_back(weight, dims, p.storage));
    o.gradients_e.push_back(gradients.emplace_back(dims, 256).gradient());
  }
  o.packed_e = o.weights_e;
  const int64_t waits = device_waits().count;
  run(p, o, way);
  CHECK(device_waits().count == waits);
  Results results = {own_columns(p, y.host(), p.c.N), own_columns(p, dx.host(), p.c.D),
                     own_columns(p, dx_added.host(), p.c.D, p.dx_before)};
  for (const DeviceGradient& gradient : gradients) {
    results.push_back(gradient.sum());
    if (!p.c.ends) results.push_back(gradient.chain());
  }
  return results;
}

}  // namespace

TEST_CASE("cuda: grouped_matmul in each way; on side streams with the bits of one stream") {
  test::for_each_storage([](DType storage) {
    for (const Case& shape : kCases) {
      const Problem p(shape, storage);
      const Results cpu = on_cpu(p);
      Results of_one_stream;
      for (GroupedWay way : ops::kGroupedWays) {
        INFO(ops::grouped_way_name(way));
        Results results;
        test::check_parity(
            shape.what, storage, cpu, [&] { return results = on_device(p, way); }, 1e-2);
        if (way == GroupedWay::one_stream) of_one_stream = results;
        for (size_t i = 0; way == GroupedWay::streams && i < results.size(); ++i) {
          test::check_same_bits(results[i], of_one_stream[i], "result " + std::to_string(i) + " on side streams");
        }
      }
    }
  });
}

TEST_CASE("cuda: products are batched where types and addresses let them be") {
  using ops::cuda::can_batch;
  using ops::cuda::Gemm;
  const auto product = [](int64_t at, DType operands, DType results, int64_t K) {
    const auto* data = reinterpret_cast<const void*>(at);
    return Gemm{.result = reinterpret_cast<void*>(at),
                .result_dtype = results,
                .result_stride = 8,
                .a = {data, operands, K, false},
                .b = {data, operands, K, true},
                .M = 3,
                .N = 8,
                .K = K};
  };
  const auto batched = [&](int64_t at, DType operands, DType results, int64_t K) {
    const Gemm products[] = {product(4096, operands, results, K), product(at, operands, results, K)};
    return can_batch(products);
  };
  CHECK(can_batch({}));
  CHECK(batched(4100, DType::f32, DType::f32, 8));
  CHECK_FALSE(batched(4096, DType::bf16, DType::f32, 8));
  CHECK(batched(4112, DType::bf16, DType::bf16, 8));
  CHECK_FALSE(batched(4104, DType::bf16, DType::bf16, 8));
  CHECK(batched(4100, DType::bf16, DType::bf16, 6));
  CHECK_FALSE(batched(4098, DType::bf16, DType::bf16, 6));
  CHECK(batched(4098, DType::bf16, DType::bf16, 7));
  CHECK(batched(4098, DType::bf16, DType::bf16, 0));  // nothing is read
  const Gemm mixed[] = {product(4096, DType::f32, DType::f32, 8), product(4096, DType::bf16, DType::bf16, 8)};
  CHECK_FALSE(can_batch(mixed));
}

#if defined(SWITCHYARD_EMULATED)  // a GPU's memory is others', too
TEST_CASE("cuda: grouped products allocate nothing after their first use, however many experts have rows") {
  const Case one{"one expert", {{6}, {0}, {0}, {0}, {0}, {0}}, 8, 8}, all{"all", {{1}, {1}, {1}, {1}, {1}, {1}}, 8, 8};
  for (GroupedWay way : ops::kGroupedWays) {
    on_device(Problem(one, DType::f32), way);
    const int64_t used = device_memory_used();
    on_device(Problem(all, DType::f32), way);
    CHECK(device_memory_used() == used);
  }
}
#endif
