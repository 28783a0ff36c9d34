#include "moe/expert_order.h"

#include <algorithm>

#include "tests/support/compare.h"

namespace {

struct Case {
  int64_t T, K, E;
};

}  // namespace

TEST_CASE("expert_order: rows are sorted by expert, then token, and every slot finds its row") {
  for (auto [T, K, E] : {Case{1, 1, 1}, Case{0, 2, 3}, Case{40, 3, 5}, Case{17, 2, 64}}) {
    std::vector<int32_t> idx;
    for (int64_t i = 0; i < T * K; ++i) {  // every third token is not routed
      idx.push_back(i / K % 3 == 1 ? -1 : static_cast<int32_t>(engine::philox(5, static_cast<uint64_t>(i))[0] % E));
    }
    std::vector<int32_t> tokens(idx.size(), 99), slots(tokens), rows(idx.size(), 99);
    std::vector<int64_t> offsets(static_cast<size_t>(E + 1), 99);
    test::for_each_cpu_target([&] {
      moe::expert_order({.tokens_N = tokens.data(),
                         .slots_N = slots.data(),
                         .rows_TK = rows.data(),
                         .offsets = offsets.data(),
                         .topk_idx_TK = engine::ConstTensor(idx.data(), engine::DType::i32, {T, K}),
                         .num_experts = E});
      int64_t row = 0;
      for (int64_t e = 0; e < E; ++e) {
        CHECK(offsets[static_cast<size_t>(e)] == row);
        for (size_t i = 0; i < idx.size(); ++i) {
          if (idx[i] != e) continue;
          CHECK(rows[i] == row);
          CHECK(slots[static_cast<size_t>(row)] == static_cast<int32_t>(i));
          CHECK(tokens[static_cast<size_t>(row++)] == static_cast<int32_t>(i) / K);
        }
      }
      CHECK(offsets.back() == row);
      const std::vector<int64_t> granules = {0, T / 3, T / 3, T};  // one is empty
      std::vector<int64_t> starts(static_cast<size_t>(E * 4), 99);
      moe::granule_starts({.starts = starts.data(),
                           .tokens_N = tokens.data(),
                           .offsets = offsets.data(),
                           .granules = granules.data(),
                           .num_granules = 3,
                           .num_experts = E});
      for (size_t i = 0; i < starts.size(); ++i) {
        const size_t e = i / 4, g = i % 4;
        int64_t expected = offsets[e];
        while (expected < offsets[e + 1] && tokens[static_cast<size_t>(expected)] < granules[g]) ++expected;
        CHECK(starts[i] == (g == 3 ? offsets[e + 1] : expected));
      }
      for (; row < T * K; ++row) {
        CHECK(tokens[static_cast<size_t>(row)] == -1);
        CHECK(slots[static_cast<size_t>(row)] == -1);
      }
      for (size_t i = 0; i < idx.size(); ++i) CHECK((rows[i] == -1) == (idx[i] == -1));
    });
  }
}
