#include "moe/capacity.h"

#include <algorithm>
#include <limits>

#include "tests/support/compare.h"

namespace {

using namespace engine;

std::vector<int32_t> drop(std::vector<int32_t> idx, const std::vector<float>& weights, bool by_weight, int64_t slots,
                          const std::vector<int64_t>& offsets, const std::vector<int64_t>& capacities, int64_t experts,
                          std::vector<int64_t>& dropped) {
  const int64_t rows = std::ssize(idx) / slots;
  moe::drop_over_capacity({.topk_idx_TK = Tensor(idx.data(), DType::i32, {rows, slots}),
                           .topk_weights_TK = test::tensor(weights, {rows, slots}),
                           .dropped = dropped.data(),
                           .granules = {offsets.data(), std::ssize(capacities), true},
                           .capacities = capacities.data(),
                           .num_experts = experts,
                           .by_weight = by_weight});
  return idx;
}

}  // namespace

TEST_CASE("expert_capacity: Megatron's size") {
  CHECK(moe::expert_capacity(1000, 8, 64, 1.25) == 157);
  CHECK(moe::expert_capacity(10, 2, 4, 100) == 10);
}

TEST_CASE("drop_over_capacity: the largest weights or the earliest tokens keep their place") {
  const std::vector<int32_t> all_first{0, 0, 0, 0};
  for (const std::vector<float>& weights :
       {std::vector<float>{0.5f, 0.9f, 0.7f, 0.9f},
        {0.5f, std::numeric_limits<float>::quiet_NaN(), 0.7f, std::numeric_limits<float>::infinity()}}) {
    std::vector<int64_t> dropped{-1};
    CHECK(drop(all_first, weights, true, 1, {0, 4}, {2}, 2, dropped) == std::vector<int32_t>{-1, 0, -1, 0});
    CHECK(dropped[0] == 2);
    CHECK(drop(all_first, weights, false, 1, {0, 4}, {2}, 2, dropped) == std::vector<int32_t>{0, 0, -1, -1});
  }
  const std::vector<float> equal(4, 0.5f);
  std::vector<int64_t> dropped{-1};
  CHECK(drop(all_first, equal, true, 1, {0, 4}, {3}, 2, dropped) == std::vector<int32_t>{0, 0, 0, -1});
}

TEST_CASE("drop_over_capacity: each granule by itself, and of every expert as many as find a place") {
  const int64_t T = 60, E = 5, K = 3;
  const std::vector<int64_t> offsets{0, 20, 20, T}, capacities{7, 4, 30};
  std::vector<int32_t> idx;
  for (int64_t i = 0; i < T * K; ++i) {  // every sixth token is not routed
    idx.push_back(i / K % 6 == 1 ? -1 : static_cast<int32_t>(philox(5, static_cast<uint64_t>(i))[0] % E));
  }
  std::vector<float> weights = test::values(6, T * K);
  for (float& w : weights) w = std::round(std::fabs(w) * 8) / 8;  // some are equal
  for (bool by_weight : {true, false}) {
    test::for_each_cpu_target([&] {
      std::vector<int64_t> dropped(3, -1);
      const std::vector<int32_t> kept = drop(idx, weights, by_weight, K, offsets, capacities, E, dropped);
      for (size_t g = 0; g < 3; ++g) {
        int64_t total = 0;
        for (int64_t i = offsets[g] * K; i < offsets[g + 1] * K; ++i) {
          const size_t at = static_cast<size_t>(i);
          int64_t before = 0;  // choices that come first
          for (int64_t j = offsets[g] * K; j < offsets[g + 1] * K; ++j) {
            const size_t other = static_cast<size_t>(j);
            if (idx[other] != idx[at]) continue;
            const bool heavier = by_weight && weights[other] > weights[at];
            before += heavier || ((!by_weight || weights[other] == weights[at]) && j < i) ? 1 : 0;
          }
          const bool goes = idx[at] < 0 || before >= capacities[g];
          CHECK(kept[at] == (goes ? -1 : idx[at]));
          total += idx[at] >= 0 && goes ? 1 : 0;
        }
        CHECK(dropped[g] == total);
      }
      CHECK(dropped[0] > 0);
    });
  }
}
