#include "engine/nn/lm_head.h"

#include "tests/support/compare.h"

namespace {

using namespace engine;
using test::tensor;

constexpr int64_t D = 6;

struct Result {
  std::vector<float> losses, dx, dweight;
};

// A head of V words on T rows in `granules` granules of equal size, in passes of `pass_rows` rows.
Result run(int64_t V, int64_t T, int64_t pass_rows, const std::vector<int32_t>& targets, bool training = true) {
  nn::ParameterStore store;
  nn::LmHead head(store, V, D, 0.4, nullptr);
  store.commit(1, true);
  store.initialize(2);
  ArenaPlan plan;
  head.plan(plan, pass_rows);
  const Arena arena(plan);
  const auto x = test::values(5, T * D, 2);
  Result r{test::poisoned(T), test::poisoned(T * D), {}};
  for (int64_t begin = 0; begin < T; begin += pass_rows) {
    const int64_t rows = std::min(pass_rows, T - begin);
    const int64_t offsets[2] = {0, rows};
    nn::Pass pass{.arena = &arena, .num_sequences = 1, .seq_len = rows, .training = training};
    pass.granules = {offsets, 1, begin + rows == T};
    pass.loss_scale = 0.25;
    head.loss(pass, tensor(x, {T, D}).slice_rows(begin, rows), ConstTensor(targets.data() + begin, DType::i32, {rows}),
              tensor(r.losses, {T}).slice_rows(begin, rows), tensor(r.dx, {T, D}).slice_rows(begin, rows));
  }
  const Tensor chain = store.find("lm_head.weight")->gradient.chain;
  r.dweight.assign(chain.f32(), chain.f32() + chain.num_elements());
  return r;
}

std::vector<int32_t> targets_of(int64_t T, int64_t V) {
  std::vector<int32_t> targets;
  for (int64_t t = 0; t < T; ++t) targets.push_back(t % 5 == 2 ? -1 : static_cast<int32_t>(t * 7 % V));
  return targets;
}

}  // namespace

TEST_CASE("lm_head: losses and gradients are those of the product and the softmax, one after the other") {
  const int64_t V = 21, T = 9;
  const auto targets = targets_of(T, V);
  const Result r = run(V, T, T, targets);
  nn::ParameterStore store;
  nn::LmHead head(store, V, D, 0.4, nullptr);
  store.commit(1, false);
  store.initialize(2);
  const std::vector<double> x = test::to_double(test::values(5, T * D, 2));
  const float* w = store.find("lm_head.weight")->weight.f32();
  const std::vector<double> weight(w, w + V * D);
  auto losses = [&](const std::vector<double>& x_TD, const std::vector<double>& w_VD) {
    std::vector<double> out;
    for (size_t t = 0; t < static_cast<size_t>(T); ++t) {
      std::vector<double> z(static_cast<size_t>(V));
      double sum = 0;
      for (size_t v = 0; v < z.size(); ++v) {
        for (size_t d = 0; d < D; ++d) z[v] += x_TD[t * D + d] * w_VD[v * D + d];
        sum += std::exp(z[v]);
      }
      out.push_back(targets[t] < 0 ? 0 : std::log(sum) - z[static_cast<size_t>(targets[t])]);
    }
    return out;
  };
  auto total = [&](const std::vector<double>& x_TD, const std::vector<double>& w_VD) {
    double sum = 0;
    for (double loss : losses(x_TD, w_VD)) sum += 0.25 * loss;
    return sum;
  };
  test::check_close(r.losses, losses(x, weight), 1e-6, "losses");
  test::check_close(r.dx, test::finite_difference(x, [&](const auto& x_TD) { return total(x_TD, weight); }), 1e-5,
                    "dx");
  test::check_close(r.dweight, test::finite_difference(weight, [&](const auto& w_VD) { return total(x, w_VD); }), 1e-5,
                    "dweight");
}

TEST_CASE("lm_head: chunks of rows and passes leave no trace in any bit") {
  // 8 MiB of logits hold fewer than 256 rows of 9001 words, so 300 rows are taken in two chunks
  for (int64_t V : {40, 9001}) {
    const int64_t T = 300;
    const auto targets = targets_of(T, V);
    const Result whole = run(V, T, T, targets);
    for (int64_t rows : {7, 100}) {
      const Result parts = run(V, T, rows, targets);
      test::check_same_bits(parts.losses, whole.losses, "losses");
      test::check_same_bits(parts.dx, whole.dx, "dx");
      test::check_same_bits(parts.dweight, whole.dweight, "dweight");
    }
  }
}

TEST_CASE("lm_head: without training there are losses and no gradients") {
  const auto targets = targets_of(8, 21);
  const Result trained = run(21, 8, 8, targets), evaluated = run(21, 8, 8, targets, false);
  test::check_same_bits(evaluated.losses, trained.losses, "losses");
  for (float g : evaluated.dweight) CHECK(g == 0);
  for (float g : evaluated.dx) CHECK(std::isnan(g));  // untouched
}
