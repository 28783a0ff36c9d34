#include "moe/routing_sums.h"

#include "tests/support/compare.h"

namespace {

using namespace engine;

constexpr int64_t T = 11, E = 5, K = 2;

}  // namespace

TEST_CASE("routing_sums: every counted row is added to its range, in the order of rows and onto what was there") {
  std::vector<float> scores = test::values(1, T * E), weights = test::values(2, T * K);
  std::vector<float> lse = test::values(3, T), entropy = test::values(4, T);
  std::vector<int32_t> idx;
  for (int64_t i = 0; i < T * K; ++i) idx.push_back(i / K % 4 == 2 ? -1 : static_cast<int32_t>((i * 3) % E));
  const std::vector<int64_t> offsets = {0, 4, 4, T};  // one range is empty
  const int64_t ranges = 3, width = moe::routing_sums_width(E);
  for (bool divide : {false, true}) {
    if (divide) {
      for (float& s : scores) s = std::fabs(s) + 0.1f;
    }
    const std::vector<float> first = test::values(5, ranges * width);
    std::vector<double> expected(first.begin(), first.end()), sums = expected;
    for (int64_t i = 0; i < ranges; ++i) {
      double* range = expected.data() + i * width;
      for (int64_t t = offsets[static_cast<size_t>(i)]; t < offsets[static_cast<size_t>(i) + 1]; ++t) {
        const int32_t* choices = idx.data() + t * K;
        if (choices[0] < 0) continue;
        float total = 1e-20f;
        for (int64_t e = 0; e < E; ++e) total += scores[static_cast<size_t>(t * E + e)];
        for (int64_t e = 0; e < E; ++e) {
          const float score = scores[static_cast<size_t>(t * E + e)];
          range[e] += static_cast<double>(divide ? score / total : score);
          range[E + e] += (choices[0] == e ? 1 : 0) + (choices[1] == e ? 1 : 0);
        }
        const size_t row = static_cast<size_t>(t);
        range[2 * E + moe::kCounted] += 1;
        range[2 * E + moe::kSquaredLse] += static_cast<double>(lse[row]) * static_cast<double>(lse[row]);
        range[2 * E + moe::kEntropy] += static_cast<double>(entropy[row]);
        range[2 * E + moe::kFirstWeight] += static_cast<double>(weights[row * K]);
      }
    }
    const std::vector<double> before = sums;
    test::for_each_cpu_target([&] {
      sums = before;
      moe::routing_sums({.sums = sums.data(),
                         .scores_TE = test::tensor(scores, {T, E}),
                         .topk_idx_TK = ConstTensor(idx.data(), DType::i32, {T, K}),
                         .topk_weights_TK = test::tensor(weights, {T, K}),
                         .lse_T = test::tensor(lse, {T}),
                         .entropy_T = test::tensor(entropy, {T}),
                         .offsets = offsets.data(),
                         .count = ranges,
                         .divide = divide});
      CHECK(sums == expected);
    });
  }
}
