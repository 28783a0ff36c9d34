// The elementwise and row ops on a device against their CPU twins, which have references and finite differences of
// their own.
#include "engine/ops/adamw.h"
#include "engine/ops/convert.h"
#include "engine/ops/cross_entropy.h"
#include "engine/ops/embedding.h"
#include "engine/ops/residual_add.h"
#include "engine/ops/rms_norm.h"
#include "engine/ops/rope.h"
#include "engine/ops/sigmoid_gate.h"
#include "engine/ops/squared_norm.h"
#include "engine/ops/swiglu.h"
#include "tests/support/device.h"

namespace {

using namespace engine;
using test::DeviceArray;
using test::DeviceGradient;
using test::DeviceTensor;
using test::fresh_values;
using test::poisoned;
using test::Results;
using test::tensor;

struct Case {
  int64_t T, D;
};
const Case kCases[] = {{1, 1}, {3, 31}, {70, 33}, {2, 300}};

std::vector<int32_t> fresh_tokens(int64_t count, int64_t below, int64_t lowest = 0) {
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < count; ++i) {
    const uint64_t bits = philox(test::fresh_seed(), 0)[0];
    tokens.push_back(static_cast<int32_t>(lowest + static_cast<int64_t>(bits % static_cast<uint64_t>(below - lowest))));
  }
  return tokens;
}

ConstTensor ints(const std::vector<int32_t>& values) {
  return ConstTensor(values.data(), DType::i32, {static_cast<int64_t>(values.size())});
}

}  // namespace

TEST_CASE("cuda: rms_norm forward and backward") {
  test::for_each_storage([](DType storage) {
    for (auto [T, D] : kCases) {
      const auto x = fresh_values(T * D, storage), weight = fresh_values(D, DType::f32);
      const auto dy = fresh_values(T * D, storage), dx_before = fresh_values(T * D, storage);
      std::vector<float> y = poisoned(T * D), rstd = poisoned(T), dx = dx_before;
      test::ChainGradient dweight({D});
      const test::Granules granules({T / 2, T - T / 2});
      ops::rms_norm_forward({.y_TD = tensor(y, {T, D}),
                             .rstd_T = tensor(rstd, {T}),
                             .x_TD = tensor(x, {T, D}),
                             .weight_D = tensor(weight, {D})});
      ops::rms_norm_backward({.dx_TD = tensor(dx, {T, D}),
                              .dweight_D = dweight.gradient(),
                              .dy_TD = tensor(dy, {T, D}),
                              .x_TD = tensor(x, {T, D}),
                              .weight_D = tensor(weight, {D}),
                              .rstd_T = tensor(rstd, {T}),
                              .granules = granules.rows});
      test::check_parity("rms_norm", storage, {y, rstd, dx, dweight.data}, [&]() -> Results {
        DeviceTensor x_d(x, {T, D}, storage), weight_d(weight, {D}), dy_d(dy, {T, D}, storage);
        DeviceTensor y_d({T, D}, storage), rstd_d({T}), dx_d(dx_before, {T, D}, storage);
        DeviceGradient dweight_d({D});
        ops::rms_norm_forward({.y_TD = y_d, .rstd_T = rstd_d, .x_TD = x_d, .weight_D = weight_d});
        ops::rms_norm_backward({.dx_TD = dx_d,
                                .dweight_D = dweight_d.gradient(),
                                .dy_TD = dy_d,
                                .x_TD = x_d,
                                .weight_D = weight_d,
                                .rstd_T = rstd_d,
                                .granules = granules.rows});
        return {y_d.host(), rstd_d.host(), dx_d.host(), dweight_d.chain()};
      });
    }
  });
}

TEST_CASE("cuda: rms_norm backward over strided rows, in place, with exact sums over granules") {
  const int64_t T = 130, D = 40, wide = 100;
  const auto x = fresh_values(T * wide, DType::f32), weight = fresh_values(D, DType::f32);
  const auto dy = fresh_values(T * D, DType::f32);
  std::vector<float> rstd = poisoned(T), y = poisoned(T * D), dx = dy;
  test::ExactGradient dweight({D}, 256);
  const test::Granules granules({65, 1, 64});
  const ConstTensor columns = tensor(const_cast<std::vector<float>&>(x), {T, wide}).slice_columns(7, D);
  ops::rms_norm_forward(
      {.y_TD = tensor(y, {T, D}), .rstd_T = tensor(rstd, {T}), .x_TD = columns, .weight_D = tensor(weight, {D})});
  auto backward = [&](const Tensor& dx_TD, const WeightGradient& gradient, const ConstTensor& x_TD,
                      const ConstTensor& weight_D, const ConstTensor& rstd_T) {
    ops::rms_norm_backward({.dx_TD = dx_TD,
                            .dweight_D = gradient,
                            .dy_TD = dx_TD,
                            .x_TD = x_TD,
                            .weight_D = weight_D,
                            .rstd_T = rstd_T,
                            .granules = granules.rows,
                            .assign = true});
  };
  backward(tensor(dx, {T, D}), dweight.gradient(), columns, tensor(weight, {D}), tensor(rstd, {T}));
  const std::vector<float> sum(dweight.sum.begin(), dweight.sum.end()), zeros(D, 0.0f);
  test::check_parity("rms_norm in place", DType::f32, {dx, sum, zeros}, [&]() -> Results {
    DeviceTensor x_d(x, {T, wide}), weight_d(weight, {D}), rstd_d(rstd, {T}), dx_d(dy, {T, D});
    DeviceGradient dweight_d({D}, 256);
    backward(dx_d, dweight_d.gradient(), Tensor(x_d).slice_columns(7, D), weight_d, rstd_d);
    const float largest = __builtin_bit_cast(float, dweight_d.max_bits());
    CHECK(std::abs(largest - __builtin_bit_cast(float, dweight.chain.max_bits)) <= 1e-5f * largest);
    return {dx_d.host(), dweight_d.sum(), dweight_d.chain()};
  });
}

TEST_CASE("cuda: swiglu forward and backward, in place") {
  test::for_each_storage([](DType storage) {
    for (auto [T, D] : kCases) {
      const auto gate = fresh_values(T * D, storage, 4), up = fresh_values(T * D, storage);
      const auto dy = fresh_values(T * D, storage);
      std::vector<float> y = poisoned(T * D), dgate = gate, dup = up;
      ops::swiglu_forward({.y_RF = tensor(y, {T, D}), .gate_RF = tensor(gate, {T, D}), .up_RF = tensor(up, {T, D})});
      ops::swiglu_backward({.dgate_RF = tensor(dgate, {T, D}),
                            .dup_RF = tensor(dup, {T, D}),
                            .dy_RF = tensor(dy, {T, D}),
                            .gate_RF = tensor(dgate, {T, D}),
                            .up_RF = tensor(dup, {T, D})});
      test::check_parity("swiglu", storage, {y, dgate, dup}, [&]() -> Results {
        DeviceTensor gate_d(gate, {T, D}, storage), up_d(up, {T, D}, storage), dy_d(dy, {T, D}, storage);
        DeviceTensor y_d({T, D}, storage);
        ops::swiglu_forward({.y_RF = y_d, .gate_RF = gate_d, .up_RF = up_d});
        ops::swiglu_backward({.dgate_RF = gate_d, .dup_RF = up_d, .dy_RF = dy_d, .gate_RF = gate_d, .up_RF = up_d});
        return {y_d.host(), gate_d.host(), up_d.host()};
      });
    }
  });
}

TEST_CASE("cuda: sigmoid_gate forward and backward") {
  test::for_each_storage([](DType storage) {
    for (auto [T, D] : kCases) {
      const auto x = fresh_values(T * D, storage), logit = fresh_values(T, storage, 3),
                 dy = fresh_values(T * D, storage);
      std::vector<float> y = poisoned(T * D), dx = poisoned(T * D), dlogit = poisoned(T);
      ops::sigmoid_gate_forward({.y_TD = tensor(y, {T, D}), .x_TD = tensor(x, {T, D}), .logit_T = tensor(logit, {T})});
      ops::sigmoid_gate_backward({.dx_TD = tensor(dx, {T, D}),
                                  .dlogit_T = tensor(dlogit, {T}),
                                  .dy_TD = tensor(dy, {T, D}),
                                  .x_TD = tensor(x, {T, D}),
                                  .logit_T = tensor(logit, {T})});
      test::check_parity("sigmoid_gate", storage, {y, dx, dlogit}, [&]() -> Results {
        DeviceTensor x_d(x, {T, D}, storage), logit_d(logit, {T}, storage), dy_d(dy, {T, D}, storage);
        DeviceTensor y_d({T, D}, storage), dx_d({T, D}, storage), dlogit_d({T}, storage);
        ops::sigmoid_gate_forward({.y_TD = y_d, .x_TD = x_d, .logit_T = logit_d});
        ops::sigmoid_gate_backward(
            {.dx_TD = dx_d, .dlogit_T = dlogit_d, .dy_TD = dy_d, .x_TD = x_d, .logit_T = logit_d});
        return {y_d.host(), dx_d.host(), dlogit_d.host()};
      });
    }
  });
}

TEST_CASE("cuda: residual_add") {
  test::for_each_storage([](DType storage) {
    for (auto [T, D] : kCases) {
      const auto before = fresh_values(T * D, storage), y = fresh_values(T * D, storage);
      std::vector<float> x = before;
      ops::residual_add({.x_TD = tensor(x, {T, D}), .y_TD = tensor(y, {T, D})});
      test::check_parity("residual_add", storage, {x}, [&]() -> Results {
        DeviceTensor x_d(before, {T, D}, storage), y_d(y, {T, D}, storage);
        ops::residual_add({.x_TD = x_d, .y_TD = y_d});
        return {x_d.host()};
      });
    }
  });
}

TEST_CASE("cuda: rope in both layouts, forth and back") {
  const int64_t T = 21, heads = 3, C = 10, longest = 32;
  std::vector<float> cos = poisoned(longest * C / 2), sin = cos;
  ops::rope_tables(tensor(cos, {longest, C / 2}), tensor(sin, {longest, C / 2}), 10000);
  test::for_each_storage([&](DType storage) {
    for (int variant = 0; variant < 4; ++variant) {
      const bool interleave = variant % 2 == 1, inverse = variant / 2 == 1;
      const auto before = fresh_values(T * heads * C, storage);
      const auto positions = fresh_tokens(T, longest);
      std::vector<float> x = before;
      auto run = [&](const Tensor& x_THC, const int32_t* where, const ConstTensor& cos_PC, const ConstTensor& sin_PC) {
        ops::rope({.x_THC = x_THC,
                   .positions = where,
                   .cos_PC = cos_PC,
                   .sin_PC = sin_PC,
                   .num_heads = heads,
                   .head_dim = C,
                   .interleave = interleave,
                   .inverse = inverse});
      };
      run(tensor(x, {T, heads, C}), positions.data(), tensor(cos, {longest, C / 2}), tensor(sin, {longest, C / 2}));
      test::check_parity("rope", storage, {x}, [&]() -> Results {
        DeviceTensor x_d(before, {T, heads, C}, storage), cos_d(cos, {longest, C / 2}), sin_d(sin, {longest, C / 2});
        DeviceArray<int32_t> positions_d(positions);
        run(x_d, positions_d.data(), cos_d, sin_d);
        return {x_d.host()};
      });
    }
  });
}

TEST_CASE("cuda: embedding forward, and backward with repeated tokens over granules") {
  const int64_t T = 150, V = 19, D = 37;
  test::for_each_storage([&](DType storage) {
    const auto weight = fresh_values(V * D, DType::f32), dy = fresh_values(T * D, storage);
    const auto tokens = fresh_tokens(T, V - 2);
    std::vector<float> y = poisoned(T * D);
    test::ExactGradient exact({V, D}, 256);
    test::ChainGradient chain({V, D});
    const test::Granules granules({70, 0, 80});
    ops::embedding_forward({.y_TD = tensor(y, {T, D}), .tokens_T = ints(tokens), .weight_VD = tensor(weight, {V, D})});
    for (const WeightGradient& gradient : {exact.gradient(), chain.gradient()}) {
      ops::embedding_backward(
          {.dweight_VD = gradient, .dy_TD = tensor(dy, {T, D}), .tokens_T = ints(tokens), .granules = granules.rows});
    }
    const std::vector<float> sum(exact.sum.begin(), exact.sum.end());
    test::check_parity("embedding", storage, {y, sum, chain.data}, [&]() -> Results {
      DeviceTensor weight_d(weight, {V, D}), dy_d(dy, {T, D}, storage), y_d({T, D}, storage);
      DeviceArray<int32_t> tokens_d(tokens);
      const ConstTensor tokens_T = tokens_d.tensor(DType::i32, {T});
      DeviceGradient exact_d({V, D}, 256), chain_d({V, D});
      ops::embedding_forward({.y_TD = y_d, .tokens_T = tokens_T, .weight_VD = weight_d});
      for (const WeightGradient& gradient : {exact_d.gradient(), chain_d.gradient()}) {
        ops::embedding_backward(
            {.dweight_VD = gradient, .dy_TD = dy_d, .tokens_T = tokens_T, .granules = granules.rows});
      }
      return {y_d.host(), exact_d.sum(), chain_d.chain()};
    });
  });
}

TEST_CASE("cuda: adamw, in place") {
  const int64_t N = 1000;
  const auto weight = fresh_values(N, DType::f32), m = fresh_values(N, DType::f32, 0.1f);
  const auto gradient = fresh_values(N, DType::f32);
  std::vector<float> v = fresh_values(N, DType::f32);
  for (float& x : v) x = x * x;
  std::vector<float> weight_after = weight, m_after = m, v_after = v;
  auto run = [](const Tensor& weight_N, const Tensor& m_N, const Tensor& v_N, const Tensor& gradient_N) {
    ops::adamw({.weight_N = weight_N,
                .m_N = m_N,
                .v_N = v_N,
                .gradient_N = gradient_N,
                .lr = 1e-2f,
                .weight_decay = 0.1f,
                .clip = 0.7f,
                .bias_correction1 = 0.19f,
                .bias_correction2 = 0.0975f});
  };
  std::vector<float> read = gradient;
  run(tensor(weight_after, {N}), tensor(m_after, {N}), tensor(v_after, {N}), tensor(read, {N}));
  test::check_parity("adamw", DType::f32, {weight_after, m_after, v_after}, [&]() -> Results {
    DeviceTensor weight_d(weight, {N}), m_d(m, {N}), v_d(v, {N}), gradient_d(gradient, {N});
    run(weight_d, m_d, v_d, gradient_d);
    return {weight_d.host(), m_d.host(), v_d.host()};
  });
}

TEST_CASE("cuda: adamw rounds exact sums as it reads them, and every gradient is zero afterwards") {
  const int64_t N = 1000;
  std::vector<double> sums;
  std::vector<float> rounded;
  for (float value : fresh_values(N, DType::f32)) {
    sums.push_back(static_cast<double>(value) * (1 + 1e-9));
    rounded.push_back(static_cast<float>(sums.back()));
  }
  const auto weight = fresh_values(N, DType::f32);
  const std::vector<float> zeros(static_cast<size_t>(N));
  const auto update = [&](const Tensor& gradient_N) {
    DeviceTensor weight_d(weight, {N}), m_d(zeros, {N}), v_d(zeros, {N});
    ops::adamw({.weight_N = weight_d, .m_N = m_d, .v_N = v_d, .gradient_N = gradient_N, .lr = 1e-2f});
    return weight_d.host();
  };
  DeviceArray<double> sums_d(sums);
  DeviceTensor rounded_d(rounded, {N});
  const auto of_floats = update(rounded_d);
  test::check_same_bits(update(Tensor(sums_d.data(), DType::f64, {N}, Device::cuda)), of_floats, "weight");
  CHECK(sums_d.host() == std::vector<double>(sums.size(), 0.0));
  CHECK(rounded_d.host() == zeros);
}

TEST_CASE("cuda: adamw marks the block of a weight that has changed") {
  const int64_t N = 2 * ops::kChangedBlock + 1000;
  for (int64_t place : {int64_t{-1}, int64_t{0}, int64_t{4095}, int64_t{4096}, int64_t{8700}, N - 1}) {
    CAPTURE(place);
    std::vector<float> gradient(static_cast<size_t>(N));
    std::vector<uint32_t> expected(3);
    if (place >= 0) gradient[static_cast<size_t>(place)] = 1, expected[static_cast<size_t>(place / 4096)] = 1;
    DeviceTensor weight_d(fresh_values(N, DType::f32), {N}), gradient_d(gradient, {N});
    DeviceTensor m_d(std::vector<float>(gradient.size()), {N}), v_d(std::vector<float>(gradient.size()), {N});
    DeviceArray<uint32_t> changed_d(std::vector<uint32_t>(3));
    ops::adamw({.weight_N = weight_d,
                .m_N = m_d,
                .v_N = v_d,
                .gradient_N = gradient_d,
                .lr = 1e-2f,
                .bias_correction1 = 0.1f,
                .bias_correction2 = 0.05f,
                .changed = changed_d.data()});
    CHECK(changed_d.host() == expected);
  }
}

TEST_CASE("cuda: squared_norm has the CPU's bits, of floats and of exact sums") {
  const int64_t N = 4096 * 9 + 77, blocks = 10;
  const auto x = fresh_values(N, DType::f32);
  std::vector<double> exact, sums(static_cast<size_t>(blocks), -1.0);
  for (float value : x) exact.push_back(static_cast<double>(value) * (1 + 1e-9));
  for (const bool of_sums : {false, true}) {
    CAPTURE(of_sums);
    const auto norm = [&](double* block_sums, const void* memory, Device device) {
      const DType dtype = of_sums ? DType::f64 : DType::f32;
      ops::squared_norm({.block_sums = block_sums, .x_N = ConstTensor(memory, dtype, {N}, device)});
    };
    norm(sums.data(), of_sums ? static_cast<const void*>(exact.data()) : x.data(), Device::cpu);
    test::same_in_every_order([&]() -> Results {
      DeviceTensor x_d(x, {N});
      DeviceArray<double> exact_d(exact), sums_d(std::vector<double>(static_cast<size_t>(blocks), -1.0));
      norm(sums_d.data(), of_sums ? static_cast<const void*>(exact_d.data()) : Tensor(x_d).data, Device::cuda);
      CHECK(sums_d.host() == sums);
      return {x_d.host()};
    });
  }
}

TEST_CASE("cuda: cross_entropy with uncounted rows, in place and without gradient") {
  const int64_t T = 9;
  test::for_each_storage([&](DType storage) {
    for (int64_t V : {5, 33, 700}) {
      const auto logits = fresh_values(T * V, storage, 8);
      auto targets = fresh_tokens(T, V, -1);
      targets[3] = -1;
      std::vector<float> losses = poisoned(T), dlogits = poisoned(T * V);
      ops::cross_entropy({.losses_T = tensor(losses, {T}),
                          .dlogits_TV = tensor(dlogits, {T, V}),
                          .logits_TV = tensor(logits, {T, V}),
                          .targets_T = ints(targets),
                          .scale = 0.25f});
      test::check_parity("cross_entropy", storage, {losses, losses, dlogits}, [&]() -> Results {
        DeviceTensor logits_d(logits, {T, V}, storage), losses_d({T}), only_losses_d({T});
        DeviceArray<int32_t> targets_d(targets);
        const ConstTensor targets_T = targets_d.tensor(DType::i32, {T});
        ops::cross_entropy({.losses_T = only_losses_d,
                            .dlogits_TV = {},
                            .logits_TV = logits_d,
                            .targets_T = targets_T,
                            .scale = 0.25f});
        ops::cross_entropy({.losses_T = losses_d,
                            .dlogits_TV = logits_d,
                            .logits_TV = logits_d,
                            .targets_T = targets_T,
                            .scale = 0.25f});
        return {only_losses_d.host(), losses_d.host(), logits_d.host()};
      });
    }
  });
}

TEST_CASE("cuda: no rows are no work") {
  DeviceTensor x({0, 8}), y({0, 8}), weight(fresh_values(8, DType::f32), {8}), rstd({0});
  DeviceGradient dweight({8});
  const test::Granules granules({0});
  ops::rms_norm_forward({.y_TD = y, .rstd_T = rstd, .x_TD = x, .weight_D = weight});
  ops::rms_norm_backward({.dx_TD = y,
                          .dweight_D = dweight.gradient(),
                          .dy_TD = x,
                          .x_TD = x,
                          .weight_D = weight,
                          .rstd_T = rstd,
                          .granules = granules.rows});
  ops::swiglu_forward({.y_RF = y, .gate_RF = x, .up_RF = x});
  device_synchronize();
  CHECK(dweight.chain() == std::vector<float>(8, 0.0f));
}

TEST_CASE("cuda: convert, and what may be f32 beside bf16") {
  const int64_t T = 9, D = 333;
  const auto x = fresh_values(T * D, DType::f32), narrow = fresh_values(T * D, DType::bf16);
  for (DType from : {DType::f32, DType::bf16}) {
    for (DType to : {DType::f32, DType::bf16}) {
      const std::vector<float>& values = from == DType::bf16 ? narrow : x;
      std::vector<float> expected = values;
      for (float& v : expected) v = to == DType::bf16 ? test::from_bf16(test::to_bf16(v)) : v;
      DeviceTensor x_d(values, {T, D}, from), y_d({T, D}, to);
      ops::convert({.y_TD = y_d, .x_TD = x_d});
      test::check_same_bits(y_d.host(), expected, "convert");
    }
  }
  std::vector<float> sum = narrow;
  ops::residual_add({.x_TD = tensor(sum, {T, D}), .y_TD = tensor(x, {T, D})});
  test::check_parity("residual_add of f32 to bf16", DType::bf16, {sum}, [&]() -> Results {
    DeviceTensor sum_d(narrow, {T, D}, DType::bf16), x_d(x, {T, D});
    ops::residual_add({.x_TD = sum_d, .y_TD = x_d});
    return {sum_d.host()};
  });
  std::vector<int32_t> targets;
  for (int64_t t = 0; t < T; ++t) targets.push_back(static_cast<int32_t>(t * 31 % D));
  std::vector<float> losses = test::poisoned(T), dlogits = test::poisoned(T * D);
  ops::cross_entropy({.losses_T = tensor(losses, {T}),
                      .dlogits_TV = tensor(dlogits, {T, D}),
                      .logits_TV = tensor(x, {T, D}),
                      .targets_T = ConstTensor(targets.data(), DType::i32, {T}),
                      .scale = 0.5f});
  test::check_parity("cross_entropy with a bf16 gradient", DType::bf16, {losses, dlogits}, [&]() -> Results {
    DeviceTensor x_d(x, {T, D}), losses_d({T}), dlogits_d({T, D}, DType::bf16);
    test::DeviceArray<int32_t> targets_d(targets);
    ops::cross_entropy({.losses_T = losses_d,
                        .dlogits_TV = dlogits_d,
                        .logits_TV = x_d,
                        .targets_T = targets_d.tensor(DType::i32, {T}),
                        .scale = 0.5f});
    return {losses_d.host(), dlogits_d.host()};
  });
}
