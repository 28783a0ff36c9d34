#include "engine/nn/dense_ffn.h"

#include <map>

#include "tests/support/compare.h"

namespace {

using namespace engine;
using test::tensor;
using Doubles = std::vector<double>;

constexpr int64_t T = 5, D = 7, F = 18;

struct Fixture {
  Fixture() : ffn(store, "ffn", 1, D, F, {.deviation = 0.5, .down_deviation = 0.3}) {
    store.commit(1, true);
    store.initialize(11);
    ArenaPlan plan;
    ffn.plan(plan, T);
    arena = Arena(plan);
    for (const nn::Parameter& p : store.all()) {
      weights[p.spec.name] = Doubles(p.weight.f32(), p.weight.f32() + p.elements);
    }
  }
  // Rows [begin, begin + rows) of one granule of T rows.
  nn::Pass pass(int64_t begin, int64_t rows) {
    offsets[1] = rows;
    nn::Pass p{.arena = &arena, .num_sequences = 1, .seq_len = rows, .training = true};
    p.granules = {offsets, 1, begin + rows == T};
    return p;
  }
  std::vector<float> gradient(const std::string& name) {
    const Tensor chain = store.find(name)->gradient.chain;
    return {chain.f32(), chain.f32() + chain.num_elements()};
  }

  nn::ParameterStore store;
  nn::DenseFfn ffn;
  Arena arena;
  std::map<std::string, Doubles> weights;
  int64_t offsets[2] = {0, T};
};

Doubles product(const Doubles& x, size_t columns, const Doubles& w) {
  Doubles y;
  for (size_t t = 0; t < x.size() / columns; ++t) {
    for (size_t n = 0; n < w.size() / columns; ++n) {
      double sum = 0;
      for (size_t k = 0; k < columns; ++k) sum += x[t * columns + k] * w[n * columns + k];
      y.push_back(sum);
    }
  }
  return y;
}

// down(silu(gate x) * up x)
Doubles reference(const Doubles& x, const std::map<std::string, Doubles>& weights) {
  const Doubles gate = product(x, D, weights.at("ffn.gate_proj.weight"));
  Doubles h = product(x, D, weights.at("ffn.up_proj.weight"));
  for (size_t i = 0; i < h.size(); ++i) h[i] *= gate[i] / (1 + std::exp(-gate[i]));
  return product(h, F, weights.at("ffn.down_proj.weight"));
}

}  // namespace

TEST_CASE("dense_ffn: forward and every gradient equal the reference") {
  Fixture f;
  const auto x = test::values(1, T * D), dy = test::values(2, T * D);
  auto y = test::poisoned(T * D), dx = test::poisoned(T * D);
  f.ffn.forward(f.pass(0, T), tensor(x, {T, D}), tensor(y, {T, D}));
  f.ffn.backward(f.pass(0, T), tensor(x, {T, D}), tensor(dy, {T, D}), tensor(dx, {T, D}));
  const Doubles xd = test::to_double(x);
  test::check_close(y, reference(xd, f.weights), 1e-6, "y");
  test::check_close(
      dx, test::finite_difference(xd, [&](const Doubles& v) { return test::dot(reference(v, f.weights), dy); }), 1e-5,
      "dx");
  for (const auto& [name, weight] : f.weights) {
    const Doubles expected = test::finite_difference(weight, [&](const Doubles& w) {
      auto changed = f.weights;
      changed[name] = w;
      return test::dot(reference(xd, changed), dy);
    });
    test::check_close(f.gradient(name), expected, 1e-5, name);
  }
}

TEST_CASE("dense_ffn: a granule cut into passes gives the bits of the whole") {
  Fixture whole, parts;
  const auto x = test::values(1, T * D), dy = test::values(2, T * D);
  auto run = [&](Fixture& f, int64_t begin, int64_t rows) {
    std::vector<float> y = test::poisoned(rows * D), dx = test::poisoned(rows * D);
    const ConstTensor x_TD = tensor(x, {T, D}).slice_rows(begin, rows);
    f.ffn.forward(f.pass(begin, rows), x_TD, tensor(y, {rows, D}));
    f.ffn.backward(f.pass(begin, rows), x_TD, tensor(dy, {T, D}).slice_rows(begin, rows), tensor(dx, {rows, D}));
  };
  run(whole, 0, T);
  for (int64_t begin = 0; begin < T; begin += 2) run(parts, begin, std::min<int64_t>(2, T - begin));
  for (const auto& [name, weight] : whole.weights)
    test::check_same_bits(parts.gradient(name), whole.gradient(name), name);
}
