#include "engine/ops/embedding.h"

#include "tests/support/compare.h"

namespace {

using namespace engine;
using test::tensor;

const std::vector<int32_t> kTokens{3, 0, 3, 6, 1, 3, 0, 0};
constexpr int64_t kVocabulary = 7, kWidth = 70;

// Passes of `rows` rows over two granules of four tokens.
std::vector<double> exact_sum(int64_t rows) {
  auto dy = test::values(1, 8 * kWidth);
  test::ExactGradient dweight({kVocabulary, kWidth}, 64);
  for (int64_t begin = 0; begin < 8; begin += rows) {
    test::Granules granules(rows == 8 ? std::vector<int64_t>{4, 4} : std::vector<int64_t>{rows},
                            (begin + rows) % 4 == 0);
    granules.rows.begins = begin % 4 == 0;
    ops::embedding_backward({.dweight_VD = dweight.gradient(),
                             .dy_TD = tensor(dy, {8, kWidth}).slice_rows(begin, rows),
                             .tokens_T = ConstTensor(kTokens.data() + begin, DType::i32, {rows}),
                             .granules = granules.rows});
  }
  for (float c : dweight.chain.data) CHECK(c == 0);
  return dweight.sum;
}

}  // namespace

TEST_CASE("embedding: rows are copied and a token outside of the table is refused") {
  auto weight = test::values(1, kVocabulary * kWidth), y = test::poisoned(8 * kWidth);
  ops::embedding_forward({.y_TD = tensor(y, {8, kWidth}),
                          .tokens_T = ConstTensor(kTokens.data(), DType::i32, {8}),
                          .weight_VD = tensor(weight, {kVocabulary, kWidth})});
  for (size_t t = 0; t < 8; ++t) {
    for (size_t d = 0; d < kWidth; ++d)
      CHECK(y[t * kWidth + d] == weight[static_cast<size_t>(kTokens[t]) * kWidth + d]);
  }
  const std::vector<int32_t> bad{0, 7};
  CHECK_THROWS_WITH_AS(
      ops::embedding_forward({.y_TD = tensor(y, {8, kWidth}).slice_rows(0, 2),
                              .tokens_T = ConstTensor(bad.data(), DType::i32, {2}),
                              .weight_VD = tensor(weight, {kVocabulary, kWidth})}),
      "token 7 at row 1 is outside of the vocabulary of 7; set model.vocab_size to the tokenizer's size", Error);
}

TEST_CASE("embedding: the gradient is the sum over a token's rows, however the passes are cut") {
  auto dy = test::values(1, 8 * kWidth);
  std::vector<double> expected(kVocabulary * kWidth);
  for (size_t t = 0; t < 8; ++t) {
    for (size_t d = 0; d < kWidth; ++d)
      expected[static_cast<size_t>(kTokens[t]) * kWidth + d] += static_cast<double>(dy[t * kWidth + d]);
  }
  const std::vector<double> whole = exact_sum(8);
  test::check_close(std::vector<float>(whole.begin(), whole.end()), expected, 1e-6, "dweight");
  for (int64_t rows : {1, 2, 4}) CHECK(exact_sum(rows) == whole);
  test::for_each_cpu_target([&] { CHECK(exact_sum(8) == whole); });
}
