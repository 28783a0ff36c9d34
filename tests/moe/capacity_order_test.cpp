#include "moe/capacity_order.h"

#include "tests/support/compare.h"

namespace {

using namespace engine;

// By the definition: each token looks for the first place that is free.
struct Expected {
  std::vector<int32_t> tokens, slots, rows;
};
Expected expected_order(const std::vector<int32_t>& idx, int64_t K, const std::vector<int32_t>& positions,
                        const std::vector<int64_t>& offsets, int64_t places) {
  const int64_t G = std::ssize(offsets) - 1, N = std::ssize(positions) * G * places;
  Expected e{std::vector<int32_t>(static_cast<size_t>(N), -1), {}, std::vector<int32_t>(idx.size(), -1)};
  e.slots = e.tokens;
  for (size_t slot = 0; slot < idx.size(); ++slot) {
    const int64_t t = static_cast<int64_t>(slot) / K;
    for (int64_t g = 0; g < G && idx[slot] >= 0; ++g) {
      if (t < offsets[static_cast<size_t>(g)] || t >= offsets[static_cast<size_t>(g) + 1]) continue;
      const int64_t first = (positions[static_cast<size_t>(idx[slot])] * G + g) * places;
      for (int64_t n = first; n < first + places && e.rows[slot] < 0; ++n) {
        if (e.tokens[static_cast<size_t>(n)] >= 0) continue;
        e.tokens[static_cast<size_t>(n)] = static_cast<int32_t>(t);
        e.slots[static_cast<size_t>(n)] = static_cast<int32_t>(slot);
        e.rows[slot] = static_cast<int32_t>(n);
      }
    }
  }
  return e;
}

}  // namespace

TEST_CASE("capacity_order: every choice takes the first free place of its expert and granule, in the order of tokens") {
  const int64_t T = 23, E = 5, K = 2;
  const std::vector<int32_t> positions{2, 0, 4, 1, 3};
  std::vector<int32_t> idx;
  for (int64_t i = 0; i < T * K; ++i) idx.push_back(i / K % 4 == 1 ? -1 : static_cast<int32_t>((i * i + 3) % E));
  for (const std::vector<int64_t>& offsets : {std::vector<int64_t>{0, T}, {0, 9, 9, 20}}) {
    for (int64_t places : {1, 3, 40}) {
      const Expected expected = expected_order(idx, K, positions, offsets, places);
      test::for_each_cpu_target([&] {
        std::vector<int32_t> tokens(expected.tokens.size(), 99), slots = tokens, rows(idx.size(), 99);
        moe::capacity_order({.tokens_N = tokens.data(),
                             .slots_N = slots.data(),
                             .rows_TK = rows.data(),
                             .topk_idx_TK = ConstTensor(idx.data(), DType::i32, {T, K}),
                             .position_E = positions.data(),
                             .granules = {offsets.data(), std::ssize(offsets) - 1},
                             .places = places,
                             .num_experts = E});
        CHECK(tokens == expected.tokens);
        CHECK(slots == expected.slots);
        CHECK(rows == expected.rows);
      });
    }
  }
}
