// Router, order of rows and permutes on a device against their CPU twins.
#include "moe/aux_loss.h"
#include "moe/capacity.h"
#include "moe/capacity_order.h"
#include "moe/expert_order.h"
#include "moe/jitter.h"
#include "moe/permute.h"
#include "moe/router.h"
#include "moe/routing_sums.h"
#include "tests/support/device.h"

namespace {

using namespace engine;
using test::DeviceArray;
using test::DeviceTensor;
using test::fresh_values;
using test::poisoned;
using test::Results;
using test::tensor;

struct RouterCase {
  int64_t T, E, K;
  moe::RouterOptions options;
  bool bias = false;
};

std::vector<RouterCase> router_cases() {
  using moe::ScoreFunction;
  return {
      {5, 4, 1, {}, false},
      {9, 40, 8, {.normalize = false, .scaling = 2.5f}, true},
      {6, 33, 3, {.scores = ScoreFunction::sigmoid}, true},
      {7, 32, 4, {.scores = ScoreFunction::sigmoid, .num_groups = 8, .groups_per_token = 3}, true},
      {7, 24, 2, {.num_groups = 4, .groups_per_token = 2}, false},
      {5, 7, 3, {.force_uniform = true}, false},
  };
}

// Every array a router's forward and backward touch.
struct RouterRun {
  std::vector<float> logits, bias, dweights, dprobabilities, z_factors;
  std::vector<uint8_t> counted;
  std::vector<int64_t> offsets;
};

RouterRun fresh_run(const RouterCase& c) {
  RouterRun run{.logits = fresh_values(c.T * c.E, DType::f32, 3),
                .bias = fresh_values(c.E, DType::f32, 0.1f),
                .dweights = fresh_values(c.T * c.K, DType::f32),
                .dprobabilities = fresh_values(3 * c.E, DType::f32),
                .z_factors = fresh_values(3, DType::f32),
                .counted = std::vector<uint8_t>(static_cast<size_t>(c.T), 1),
                .offsets = {0, 2, 2, c.T}};
  run.counted[1] = 0;
  return run;
}

std::vector<float> as_floats(const std::vector<int32_t>& values) {
  return {values.begin(), values.end()};
}

}  // namespace

TEST_CASE("cuda: router forward and backward choose and weigh as on the CPU") {
  for (const RouterCase& c : router_cases()) {
    const int64_t T = c.T, E = c.E, K = c.K;
    const RouterRun run = fresh_run(c);
    std::vector<float> scores = poisoned(T * E), weights = poisoned(T * K), lse = poisoned(T), entropy = poisoned(T);
    std::vector<float> dlogits = poisoned(T * E);
    std::vector<int32_t> idx(static_cast<size_t>(T * K), -7);
    moe::router_forward({.scores_TE = tensor(scores, {T, E}),
                         .topk_weights_TK = tensor(weights, {T, K}),
                         .topk_idx_TK = Tensor(idx.data(), DType::i32, {T, K}),
                         .lse_T = tensor(lse, {T}),
                         .entropy_T = tensor(entropy, {T}),
                         .logits_TE = tensor(run.logits, {T, E}),
                         .bias_E = c.bias ? tensor(run.bias, {E}) : ConstTensor(),
                         .counted = run.counted.data(),
                         .first_row = 11,
                         .options = c.options});
    moe::router_backward({.dlogits_TE = tensor(dlogits, {T, E}),
                          .dtopk_weights_TK = tensor(run.dweights, {T, K}),
                          .scores_TE = tensor(scores, {T, E}),
                          .topk_idx_TK = ConstTensor(idx.data(), DType::i32, {T, K}),
                          .logits_TE = tensor(run.logits, {T, E}),
                          .lse_T = tensor(lse, {T}),
                          .balance = {.offsets = run.offsets.data(),
                                      .count = 3,
                                      .dprobabilities = run.dprobabilities.data(),
                                      .z_factors = run.z_factors.data()},
                          .options = c.options});
    test::check_parity(
        "router", DType::f32, {scores, weights, lse, entropy, as_floats(idx), dlogits}, [&]() -> Results {
          DeviceTensor logits_d(run.logits, {T, E}), bias_d(run.bias, {E}), dweights_d(run.dweights, {T, K});
          DeviceTensor scores_d({T, E}), weights_d({T, K}), lse_d({T}), entropy_d({T}), dlogits_d({T, E});
          DeviceArray<int32_t> idx_d(std::vector<int32_t>(static_cast<size_t>(T * K), -7));
          DeviceArray<uint8_t> counted_d(run.counted);
          DeviceArray<int64_t> offsets_d(run.offsets);
          DeviceArray<float> dprobabilities_d(run.dprobabilities), z_factors_d(run.z_factors);
          moe::router_forward({.scores_TE = scores_d,
                               .topk_weights_TK = weights_d,
                               .topk_idx_TK = Tensor(idx_d.data(), DType::i32, {T, K}, Device::cuda),
                               .lse_T = lse_d,
                               .entropy_T = entropy_d,
                               .logits_TE = logits_d,
                               .bias_E = c.bias ? ConstTensor(bias_d) : ConstTensor(),
                               .counted = counted_d.data(),
                               .first_row = 11,
                               .options = c.options});
          moe::router_backward({.dlogits_TE = dlogits_d,
                                .dtopk_weights_TK = dweights_d,
                                .scores_TE = scores_d,
                                .topk_idx_TK = idx_d.tensor(DType::i32, {T, K}),
                                .logits_TE = logits_d,
                                .lse_T = lse_d,
                                .balance = {.offsets = offsets_d.data(),
                                            .count = 3,
                                            .dprobabilities = dprobabilities_d.data(),
                                            .z_factors = z_factors_d.data()},
                                .options = c.options});
          return {scores_d.host(),  weights_d.host(),        lse_d.host(),
                  entropy_d.host(), as_floats(idx_d.host()), dlogits_d.host()};
        });
  }
}

TEST_CASE("cuda: equal scores go to the lower expert") {
  const int64_t T = 1, E = 70, K = 4;
  DeviceTensor logits_d(std::vector<float>(static_cast<size_t>(E), 0.5f), {T, E}), scores_d({T, E}), weights_d({T, K});
  DeviceTensor lse_d({T}), entropy_d({T});
  DeviceArray<int32_t> idx_d(std::vector<int32_t>(static_cast<size_t>(K), -7));
  moe::router_forward({.scores_TE = scores_d,
                       .topk_weights_TK = weights_d,
                       .topk_idx_TK = Tensor(idx_d.data(), DType::i32, {T, K}, Device::cuda),
                       .lse_T = lse_d,
                       .entropy_T = entropy_d,
                       .logits_TE = logits_d,
                       .bias_E = {},
                       .options = {}});
  CHECK(idx_d.host() == std::vector<int32_t>{0, 1, 2, 3});
}

TEST_CASE("cuda: rows are ordered by expert, permuted and put back") {
  const int64_t T = 37, E = 6, K = 3, D = 50;
  std::vector<int32_t> idx;
  for (int64_t i = 0; i < T * K; ++i) {
    idx.push_back(i / K % 5 == 2 ? -1 : static_cast<int32_t>(philox(test::fresh_seed(), 0)[0] % E));
  }
  std::vector<int32_t> tokens(idx.size(), 99), slots(tokens), rows(tokens);
  std::vector<int64_t> offsets(static_cast<size_t>(E + 1), 99);
  moe::expert_order({.tokens_N = tokens.data(),
                     .slots_N = slots.data(),
                     .rows_TK = rows.data(),
                     .offsets = offsets.data(),
                     .topk_idx_TK = ConstTensor(idx.data(), DType::i32, {T, K}),
                     .num_experts = E});
  const int64_t N = offsets.back();
  test::for_each_storage([&](DType storage) {
    const auto x = fresh_values(T * D, storage), dy = fresh_values(T * D, storage);
    const auto scales = fresh_values(N, DType::f32), weights = fresh_values(T * K, DType::f32);
    std::vector<float> sent = poisoned(N * D), scaled = sent, back = poisoned(T * D), sum = back;
    std::vector<float> dweights = poisoned(T * K), all = poisoned(T * K * D);
    moe::permute({.y_ND = tensor(all, {T * K, D}), .x_TD = tensor(x, {T, D}), .rows = tokens.data()});
    moe::permute({.y_ND = tensor(sent, {N, D}), .x_TD = tensor(x, {T, D}), .rows = tokens.data()});
    moe::permute(
        {.y_ND = tensor(scaled, {N, D}), .x_TD = tensor(x, {T, D}), .rows = tokens.data(), .scales = scales.data()});
    moe::unpermute({.y_TD = tensor(back, {T, D}),
                    .x_ND = tensor(sent, {N, D}),
                    .rows_TK = rows.data(),
                    .weights_TK = weights.data(),
                    .num_slots = K});
    moe::unpermute({.y_TD = tensor(sum, {T, D}), .x_ND = tensor(sent, {N, D}), .rows_TK = rows.data(), .num_slots = K});
    moe::unpermute_weights_backward({.dweights_TK = tensor(dweights, {T, K}),
                                     .dy_TD = tensor(dy, {T, D}),
                                     .x_ND = tensor(sent, {N, D}),
                                     .rows_TK = rows.data()});
    test::check_parity("permute", storage, {sent, scaled, back, sum, dweights, all}, [&]() -> Results {
      DeviceTensor x_d(x, {T, D}, storage), dy_d(dy, {T, D}, storage), weights_d(weights, {T, K}),
          scales_d(scales, {N});
      DeviceTensor sent_d({N, D}, storage), scaled_d({N, D}, storage), back_d({T, D}, storage), sum_d({T, D}, storage);
      DeviceTensor dweights_d({T, K}), all_d({T * K, D}, storage);
      DeviceArray<int32_t> idx_d(idx), tokens_d(std::vector<int32_t>(idx.size(), 99)), slots_d(tokens_d.host()),
          rows_d(tokens_d.host());
      DeviceArray<int64_t> offsets_d(std::vector<int64_t>(static_cast<size_t>(E + 1), 99));
      moe::expert_order({.tokens_N = tokens_d.data(),
                         .slots_N = slots_d.data(),
                         .rows_TK = rows_d.data(),
                         .offsets = offsets_d.data(),
                         .topk_idx_TK = idx_d.tensor(DType::i32, {T, K}),
                         .num_experts = E});
      moe::permute({.y_ND = sent_d, .x_TD = x_d, .rows = tokens_d.data()});
      moe::permute({.y_ND = all_d, .x_TD = x_d, .rows = tokens_d.data()});
      moe::permute({.y_ND = scaled_d, .x_TD = x_d, .rows = tokens_d.data(), .scales = Tensor(scales_d).f32()});
      moe::unpermute({.y_TD = back_d,
                      .x_ND = sent_d,
                      .rows_TK = rows_d.data(),
                      .weights_TK = Tensor(weights_d).f32(),
                      .num_slots = K});
      moe::unpermute({.y_TD = sum_d, .x_ND = sent_d, .rows_TK = rows_d.data(), .num_slots = K});
      moe::unpermute_weights_backward(
          {.dweights_TK = dweights_d, .dy_TD = dy_d, .x_ND = sent_d, .rows_TK = rows_d.data()});
      CHECK(tokens_d.host() == tokens);
      CHECK(slots_d.host() == slots);
      CHECK(rows_d.host() == rows);
      CHECK(offsets_d.host() == offsets);
      const std::vector<int64_t> granules = {0, 10, 10, T};
      std::vector<int64_t> starts(static_cast<size_t>(E * 4), 99);
      DeviceArray<int64_t> starts_d(starts);
      moe::GranuleStarts there{.starts = starts.data(),
                               .tokens_N = tokens.data(),
                               .offsets = offsets.data(),
                               .granules = granules.data(),
                               .num_granules = 3,
                               .num_experts = E};
      moe::granule_starts(there);
      there.starts = starts_d.data(), there.tokens_N = tokens_d.data(), there.offsets = offsets_d.data();
      there.device = Device::cuda;
      moe::granule_starts(there);
      CHECK(starts_d.host() == starts);
      return {sent_d.host(), scaled_d.host(), back_d.host(), sum_d.host(), dweights_d.host(), all_d.host()};
    });
  });
}

TEST_CASE("cuda: the routing of a pass adds up as on the CPU") {
  const int64_t T = 700, E = 70, K = 3;
  const auto scores = fresh_values(T * E, DType::f32), weights = fresh_values(T * K, DType::f32);
  const auto lse = fresh_values(T, DType::f32), entropy = fresh_values(T, DType::f32);
  std::vector<float> positive = scores;
  for (float& s : positive) s = std::fabs(s);
  std::vector<int32_t> idx;
  for (int64_t i = 0; i < T * K; ++i) idx.push_back(i / K % 7 == 3 ? -1 : static_cast<int32_t>(i * 11 % E));
  const std::vector<int64_t> offsets = {0, 257, 257, 640, T};
  const int64_t ranges = 4, width = moe::routing_sums_width(E);
  for (bool divide : {false, true}) {
    const std::vector<float>& p = divide ? positive : scores;
    std::vector<double> sums(static_cast<size_t>(ranges * width), 0.5);
    moe::RoutingSums a{.sums = sums.data(),
                       .scores_TE = tensor(p, {T, E}),
                       .topk_idx_TK = ConstTensor(idx.data(), DType::i32, {T, K}),
                       .topk_weights_TK = tensor(weights, {T, K}),
                       .lse_T = tensor(lse, {T}),
                       .entropy_T = tensor(entropy, {T}),
                       .offsets = offsets.data(),
                       .count = ranges,
                       .divide = divide};
    moe::routing_sums(a);
    test::check_parity("sums", DType::f32, {{sums.begin(), sums.end()}}, [&]() -> Results {
      DeviceTensor p_d(p, {T, E}), weights_d(weights, {T, K}), lse_d(lse, {T}), entropy_d(entropy, {T});
      DeviceArray<int32_t> idx_d(idx);
      DeviceArray<double> sums_d(std::vector<double>(static_cast<size_t>(ranges * width), 0.5));
      moe::routing_sums({.sums = sums_d.data(),
                         .scores_TE = p_d,
                         .topk_idx_TK = idx_d.tensor(DType::i32, {T, K}),
                         .topk_weights_TK = weights_d,
                         .lse_T = lse_d,
                         .entropy_T = entropy_d,
                         .offsets = offsets.data(),
                         .count = ranges,
                         .divide = divide});
      const std::vector<double> there = sums_d.host();
      return {{there.begin(), there.end()}};
    });
  }
}

TEST_CASE("cuda: balance losses and their gradients are the CPU's") {
  const int64_t E = 70, granules = 3, sequences = 150, width = moe::routing_sums_width(E),
                ranges = granules * sequences;
  std::vector<double> sums;
  for (float value : fresh_values(ranges * width, DType::f32)) sums.push_back(std::round(std::fabs(value) * 8));
  for (int64_t i = 0; i < ranges; i += 7) std::fill_n(sums.begin() + i * width, width, 0.0);  // nothing was routed
  std::vector<double> counts;
  for (float value : fresh_values(E, DType::f32)) counts.push_back(std::round(std::fabs(value) * 100));
  const std::vector<double> before(static_cast<size_t>(granules * width), 0.25);
  moe::SequenceLosses losses{
      .sequence_sums = sums.data(), .num_granules = granules, .sequences_per_granule = sequences, .num_experts = E};
  moe::SwitchLossGradient gradient{.sums = sums.data(), .factor = 0.7, .num_ranges = ranges, .num_experts = E};
  for (bool global : {false, true}) {
    std::vector<double> granule_sums = before;
    std::vector<float> dprobabilities = poisoned(ranges * E);
    losses.granule_sums = granule_sums.data(), gradient.dprobabilities_NE = dprobabilities.data();
    gradient.counts_E = global ? counts.data() : nullptr;
    moe::sequence_losses(losses);
    moe::switch_loss_gradient(gradient);
    test::check_parity("balance", DType::f32, {{granule_sums.begin(), granule_sums.end()}, dprobabilities},
                       [&]() -> Results {
                         DeviceArray<double> granule_d(before), sums_d(sums), counts_d(counts);
                         DeviceTensor dprobabilities_d({ranges, E});
                         moe::SequenceLosses losses_there = losses;
                         losses_there.granule_sums = granule_d.data(), losses_there.sequence_sums = sums_d.data();
                         losses_there.device = Device::cuda;
                         moe::sequence_losses(losses_there);
                         moe::SwitchLossGradient there = gradient;
                         there.dprobabilities_NE = Tensor(dprobabilities_d).f32(), there.sums = sums_d.data(),
                         there.device = Device::cuda;
                         there.counts_E = global ? counts_d.data() : nullptr;
                         moe::switch_loss_gradient(there);
                         const std::vector<double> total = granule_d.host();
                         return {{total.begin(), total.end()}, dprobabilities_d.host()};
                       });
  }
}

TEST_CASE("cuda: places of experts with a capacity are taken as on the CPU") {
  const int64_t T = 300, E = 7, K = 3, G = 3;
  const std::vector<int64_t> offsets{0, 90, 90, 280};  // some rows are in no granule
  const std::vector<int32_t> positions{3, 0, 6, 2, 1, 5, 4};
  std::vector<int32_t> idx;
  for (int64_t i = 0; i < T * K; ++i) {
    idx.push_back(i / K % 6 == 1 ? -1 : static_cast<int32_t>(philox(test::fresh_seed(), 0)[0] % E));
  }
  for (int64_t places : {1, 25, 200}) {  // fewer than are chosen, and more than tokens
    const size_t rows = static_cast<size_t>(E * G * places);
    std::vector<int32_t> tokens(rows, 99), slots(rows, 99), rows_TK(idx.size(), 99);
    moe::CapacityOrder a{.tokens_N = tokens.data(),
                         .slots_N = slots.data(),
                         .rows_TK = rows_TK.data(),
                         .topk_idx_TK = ConstTensor(idx.data(), DType::i32, {T, K}),
                         .position_E = positions.data(),
                         .granules = {offsets.data(), G, true},
                         .places = places,
                         .num_experts = E};
    moe::capacity_order(a);
    test::check_parity(
        "places", DType::f32, {as_floats(tokens), as_floats(slots), as_floats(rows_TK)}, [&]() -> Results {
          DeviceArray<int32_t> idx_d(idx), positions_d(positions), rows_d(std::vector<int32_t>(idx.size(), 99));
          DeviceArray<int32_t> tokens_d(std::vector<int32_t>(rows, 99)), slots_d(tokens_d.host());
          moe::CapacityOrder there = a;
          there.tokens_N = tokens_d.data(), there.slots_N = slots_d.data(), there.rows_TK = rows_d.data();
          there.topk_idx_TK = idx_d.tensor(DType::i32, {T, K}), there.position_E = positions_d.data();
          moe::capacity_order(there);
          return {as_floats(tokens_d.host()), as_floats(slots_d.host()), as_floats(rows_d.host())};
        });
  }
}

TEST_CASE("cuda: capacity drops what it drops on the CPU") {
  const int64_t T = 300, E = 7, K = 3;
  const std::vector<int64_t> offsets{0, 90, 90, 280}, capacities{31, 5, 70};  // some rows are in no granule
  std::vector<int32_t> idx;
  for (int64_t i = 0; i < T * K; ++i) {
    idx.push_back(i / K % 6 == 1 ? -1 : static_cast<int32_t>(philox(test::fresh_seed(), 0)[0] % E));
  }
  std::vector<float> weights = fresh_values(T * K, DType::f32);
  for (float& w : weights) w = std::round(std::fabs(w) * 16) / 16;  // some are equal
  for (bool by_weight : {true, false}) {
    moe::DropOverCapacity a{.topk_idx_TK = {},
                            .topk_weights_TK = tensor(weights, {T, K}),
                            .granules = {offsets.data(), 3, true},
                            .capacities = capacities.data(),
                            .num_experts = E,
                            .by_weight = by_weight};
    std::vector<int32_t> kept = idx;
    std::vector<int64_t> dropped(3, -1);
    a.topk_idx_TK = Tensor(kept.data(), DType::i32, {T, K}), a.dropped = dropped.data();
    moe::drop_over_capacity(a);
    REQUIRE(kept != idx);
    test::check_parity("capacity", DType::f32, {as_floats(kept), {dropped.begin(), dropped.end()}}, [&]() -> Results {
      DeviceTensor weights_d(weights, {T, K});
      DeviceArray<int32_t> idx_d(idx);
      DeviceArray<int64_t> dropped_d(std::vector<int64_t>(3, -1));
      moe::DropOverCapacity there = a;
      there.topk_idx_TK = Tensor(idx_d.data(), DType::i32, {T, K}, Device::cuda);
      there.topk_weights_TK = weights_d, there.dropped = dropped_d.data();
      moe::drop_over_capacity(there);
      CHECK(idx_d.host() == kept);
      const std::vector<int64_t> counts = dropped_d.host();
      return {as_floats(idx_d.host()), {counts.begin(), counts.end()}};
    });
  }
}

TEST_CASE("cuda: jitter draws the factors of the CPU") {
  const int64_t T = 33, D = 70;
  const auto x = fresh_values(T * D, DType::f32);
  std::vector<float> y = x;
  moe::Jitter a{.x_TD = tensor(y, {T, D}), .key = test::fresh_seed(), .step = 5, .first_row = 11, .width = 0.3f};
  moe::jitter(a);
  test::check_parity("jitter", DType::f32, {y}, [&]() -> Results {
    DeviceTensor x_d(x, {T, D});
    a.x_TD = x_d;
    moe::jitter(a);
    return {x_d.host()};
  });
}
