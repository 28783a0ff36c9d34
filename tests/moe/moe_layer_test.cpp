// The layer against its definition in double precision: output, and the gradient of input and of every weight element.
#include "moe/moe_layer.h"

#include <numeric>

#include "comm/thread_group.h"
#include "tests/moe/moe_layer_reference.h"
#include "tests/support/compare.h"

namespace {

using namespace engine;
using test::Doubles;
using test::DoubleWeights;
using test::MoeReference;
using test::tensor;

constexpr int64_t kLayer = 2, kSeqLen = 3;
const std::string kPrefix = "model.layers.2.mlp.";

ModelConfig base() {
  ModelConfig c;
  c.hidden_size = 5;
  c.num_hidden_layers = 4;
  c.num_experts = 6;
  c.num_experts_per_tok = 2;
  c.moe_intermediate_size = 3;
  c.router.aux_loss_coef = 0.3;
  c.router.z_loss_coef = 0.05;
  return c;
}

struct Variant {
  const char* name;
  void (*change)(ModelConfig&);
  int64_t sequences = 4, granules = 2;
  uint8_t padding = 0;  // every so many tokens one is not counted
  std::vector<float> expert_bias{};
  std::vector<int64_t> previous_counts{};
};
const Variant kVariants[] = {
    {"softmax, normalised", [](ModelConfig&) {}},
    {"softmax, not normalised, scaled",
     [](ModelConfig& c) { c.norm_topk_prob = false, c.routed_scaling_factor = 2.5; }},
    {"softmax in groups", [](ModelConfig& c) { c.n_group = 3, c.topk_group = 2; }},
    {"sigmoid in groups, with bias",
     [](ModelConfig& c) {
       c.scoring_func = "sigmoid", c.n_group = 3, c.topk_group = 2, c.routed_scaling_factor = 1.7;
       c.router.bias_update_rate = 1e-3;
     },
     4,
     2,
     0,
     {.1f, -.2f, .05f, .3f, -.1f, 0}},
    {"sigmoid, not normalised", [](ModelConfig& c) { c.scoring_func = "sigmoid", c.norm_topk_prob = false; }},
    {"balance by sequence", [](ModelConfig& c) { c.router.aux_loss_scope = "sequence"; }},
    {"balance against the step before",
     [](ModelConfig& c) { c.router.aux_loss_scope = "global"; },
     4,
     2,
     0,
     {},
     {3, 9, 1, 0, 7, 4}},
    {"balance against the step before, at the first step", [](ModelConfig& c) { c.router.aux_loss_scope = "global"; }},
    {"shared expert", [](ModelConfig& c) { c.n_shared_experts = 2; }},
    {"shared expert with gate", [](ModelConfig& c) { c.n_shared_experts = 1, c.shared_expert_gate = true; }},
    {"capacity by weight", [](ModelConfig& c) { c.router.capacity_factor = 0.6; }},
    {"capacity by position", [](ModelConfig& c) { c.router.capacity_factor = 0.6, c.router.drop_policy = "position"; }},
    {"padding", [](ModelConfig& c) { c.router.aux_loss_scope = "sequence"; }, 4, 2, 3},
    {"padding and capacity", [](ModelConfig& c) { c.router.capacity_factor = 0.7; }, 4, 2, 4},
    {"every expert chosen", [](ModelConfig& c) { c.num_experts_per_tok = 6; }},
    {"one expert of one", [](ModelConfig& c) { c.num_experts = c.num_experts_per_tok = 1; }},
    {"one token", [](ModelConfig&) {}, 1, 1},
    {"all tokens on one expert, others without any",
     [](ModelConfig& c) {
       c.scoring_func = "sigmoid", c.num_experts_per_tok = 1;
       c.router.bias_update_rate = 1e-3;
     },
     4,
     2,
     0,
     {0, 0, 0, 9, 0, 0}},
};

struct Fixture {
  explicit Fixture(const Variant& v)
      : config(changed(v)),
        tokens(v.sequences * seq_len(v)),
        shared{.seed = 1, .granules_per_step = v.granules},
        ep(comm::make_self_group()),
        layer(config, kLayer, store, *ep, shared) {
    // one granule's gradient is its chain; with several, sums on a grid
    store.commit(v.granules, true);
    uint64_t seed = 40;
    for (nn::Parameter& p : store.all()) {
      const auto values = test::values(++seed, p.elements, 0.9f);
      std::copy(values.begin(), values.end(), p.weight.f32());
      p.gradient.grid = 1.5 * std::ldexp(1.0, 52) * 64 * std::ldexp(1.0, -40);
      if (v.granules == 1) p.gradient.sum = nullptr;
    }
    store.weights_changed();
    if (layer.expert_bias()) layer.expert_bias()->values() = v.expert_bias;
    layer.previous_counts() = v.previous_counts;
    ArenaPlan plan;
    layer.plan(plan, tokens);
    arena = Arena(plan);
    for (int64_t t = 0; t < tokens; ++t) counted.push_back(v.padding > 0 && t % v.padding == 1 ? 0 : 1);
    for (int64_t g = 0; g <= v.granules; ++g) offsets.push_back(g * tokens / v.granules);
    for (int64_t g = 0; g < v.granules; ++g) {
      numbers.push_back(g);
      granule_counted.push_back(0);
      for (int64_t t = offsets[static_cast<size_t>(g)]; t < offsets[static_cast<size_t>(g) + 1]; ++t) {
        granule_counted.back() += counted[static_cast<size_t>(t)];
      }
    }
    pass = {.arena = &arena,
            .profiler = &profiler,
            .num_sequences = v.sequences,
            .seq_len = seq_len(v),
            .training = true,
            .counted = counted.data(),
            .granules = {offsets.data(), v.granules, true},
            .granule_numbers = numbers.data(),
            .granule_counted = granule_counted.data(),
            .granules_per_step = v.granules,
            .sequences_per_granule = v.sequences / v.granules};
    reference = {.config = config,
                 .prefix = kPrefix,
                 .tokens_per_granule = tokens / v.granules,
                 .tokens_per_sequence = seq_len(v),
                 .counted = counted,
                 .expert_bias = Doubles(v.expert_bias.begin(), v.expert_bias.end()),
                 .previous_counts = v.previous_counts};
    for (const nn::Parameter& p : store.all()) {
      weights[p.spec.name] = Doubles(p.weight.f32(), p.weight.f32() + p.elements);
    }
    layer.begin_step();
    layer.begin_pass(pass);
  }
  // After the passes of a step.
  void end_step() {
    shared.recorded.fetch();
    layer.take_recorded();
  }
  static ModelConfig changed(const Variant& v) {
    ModelConfig c = base();
    v.change(c);
    return c;
  }
  static int64_t seq_len(const Variant& v) { return v.sequences == 1 ? 1 : kSeqLen; }
  std::vector<double> gradient(const nn::Parameter& p) const {
    std::vector<double> g;
    for (int64_t i = 0; i < p.elements; ++i) {
      g.push_back(p.gradient.sum != nullptr ? p.gradient.sum[i] : static_cast<double>(p.gradient.chain.f32()[i]));
    }
    return g;
  }

  ModelConfig config;
  int64_t tokens;
  nn::ParameterStore store;
  moe::MoeShared shared;
  std::unique_ptr<comm::Group> ep;
  moe::MoeLayer layer;
  Arena arena;
  Profiler profiler;
  std::vector<uint8_t> counted;
  std::vector<int64_t> offsets, numbers, granule_counted;
  nn::Pass pass;
  MoeReference reference;
  DoubleWeights weights;
};

}  // namespace

TEST_CASE("moe_layer: output and every element of every gradient equal the definition") {
  for (const Variant& variant : kVariants) {
    INFO("variant: ", std::string(variant.name));
    Fixture f(variant);
    const int64_t T = f.tokens, D = f.config.hidden_size;
    const auto x = test::values(7, T * D), dy = test::values(8, T * D);
    auto y = test::poisoned(T * D), dx = test::poisoned(T * D);
    f.layer.forward(f.pass, tensor(x, {T, D}), tensor(y, {T, D}));
    f.layer.backward(f.pass, tensor(x, {T, D}), tensor(dy, {T, D}), tensor(dx, {T, D}));

    const Doubles xd = test::to_double(x);
    test::check_close(y, f.reference(xd, f.weights).y_TD, 3e-6, "y");
    auto objective = [&](const Doubles& input, const DoubleWeights& weights) {
      const MoeReference::Result r = f.reference(input, weights);
      return test::dot(r.y_TD, dy) + r.balance;
    };
    test::check_close(
        dx, test::finite_difference(xd, [&](const Doubles& input) { return objective(input, f.weights); }), 2e-5, "dx");
    for (const nn::Parameter& p : f.store.all()) {
      const Doubles expected = test::finite_difference(f.weights[p.spec.name], [&](const Doubles& w) {
        DoubleWeights changed = f.weights;
        changed[p.spec.name] = w;
        return objective(xd, changed);
      });
      const Doubles gradient = f.gradient(p);
      test::check_close(std::vector<float>(gradient.begin(), gradient.end()), expected, 2e-5, p.spec.name);
    }
  }
}

TEST_CASE("moe_layer: what is recorded of the router equals the definition") {
  for (const Variant& variant : kVariants) {
    INFO("variant: ", std::string(variant.name));
    Fixture f(variant);
    const int64_t T = f.tokens, D = f.config.hidden_size;
    const auto x = test::values(7, T * D);
    auto y = test::poisoned(T * D);
    f.layer.forward(f.pass, tensor(x, {T, D}), tensor(y, {T, D}));
    f.end_step();
    const MoeReference::Result r = f.reference(test::to_double(x), f.weights);
    const moe::LoadStatistics& recorded = f.layer.statistics();
    const auto sum = [](const std::vector<double>& parts) { return std::accumulate(parts.begin(), parts.end(), 0.0); };
    CHECK(sum(recorded.entropy_sums_G) == doctest::Approx(r.entropy).epsilon(1e-5));
    CHECK(sum(recorded.first_weight_sums_G) == doctest::Approx(r.first_weight).epsilon(1e-5));
    CHECK(sum(recorded.z_sums_G) == doctest::Approx(r.z).epsilon(1e-5));
    std::vector<int64_t> counts(static_cast<size_t>(f.config.num_experts));
    for (const std::vector<int>& choices : r.idx) {
      for (int e : choices) ++counts[static_cast<size_t>(e)];
    }
    std::vector<int64_t> total(counts.size());
    for (size_t i = 0; i < recorded.tokens_per_expert_GE.size(); ++i) {
      total[i % total.size()] += recorded.tokens_per_expert_GE[i];
    }
    CHECK(total == counts);
  }
}

TEST_CASE("moe_layer: dropped tokens are those of the definition and counted per granule") {
  for (const char* policy : {"probs", "position"}) {
    Variant variant{"", [](ModelConfig& c) { c.router.capacity_factor = 0.5; }};
    Fixture f(variant);
    f.config.router.drop_policy = policy;
    nn::ParameterStore store;
    moe::MoeLayer layer(f.config, kLayer, store, *f.ep, f.shared);
    store.commit(2, true);
    for (nn::Parameter& p : store.all()) {
      const Doubles& w = f.weights.at(p.spec.name);
      std::copy(w.begin(), w.end(), p.weight.f32());
    }
    ArenaPlan plan;
    layer.plan(plan, f.tokens);
    Arena arena(plan);
    f.pass.arena = &arena;
    f.reference.config = f.config;
    const auto x = test::values(7, f.tokens * 5);
    auto y = test::poisoned(f.tokens * 5);
    layer.begin_step();
    layer.begin_pass(f.pass);
    layer.forward(f.pass, tensor(x, {f.tokens, 5}), tensor(y, {f.tokens, 5}));
    f.shared.recorded.fetch();
    layer.take_recorded();
    const MoeReference::Result r = f.reference(test::to_double(x), f.weights);
    test::check_close(y, r.y_TD, 3e-6, "y");
    for (int64_t g = 0; g < 2; ++g) {
      int64_t dropped = 0;
      for (int64_t t = g * f.tokens / 2; t < (g + 1) * f.tokens / 2; ++t) {
        for (bool kept : r.kept[static_cast<size_t>(t)]) dropped += kept ? 0 : 1;
      }
      CHECK(dropped > 0);
      CHECK(layer.statistics().dropped_G[static_cast<size_t>(g)] == dropped);
    }
  }
}

TEST_CASE("moe_layer: what is not counted leaves no trace, as if it were not there") {
  // the same tokens with and without two padded rows behind each sequence
  const Variant variant{"", [](ModelConfig& c) { c.router.capacity_factor = 0.9; }, 2, 1};
  Fixture without(variant), with(variant);
  const int64_t D = 5, S = kSeqLen, padded = S + 2;
  const auto x = test::values(7, 2 * S * D), noise = test::values(9, 2 * padded * D, 5);
  std::vector<float> wide = noise, y = test::poisoned(2 * S * D), wide_y = test::poisoned(2 * padded * D);
  std::vector<uint8_t> counted(static_cast<size_t>(2 * padded), 0);
  for (int64_t b = 0; b < 2; ++b) {
    for (int64_t s = 0; s < S; ++s) counted[static_cast<size_t>(b * padded + s)] = 1;
    std::copy(x.begin() + b * S * D, x.begin() + (b + 1) * S * D, wide.begin() + b * padded * D);
  }
  ArenaPlan plan;
  with.layer.plan(plan, 2 * padded);
  with.arena = Arena(plan);
  const std::vector<int64_t> offsets{0, 2 * padded};
  with.pass.seq_len = padded;
  with.pass.counted = counted.data();
  with.pass.granules = {offsets.data(), 1, true};
  with.layer.forward(with.pass, tensor(wide, {2 * padded, D}), tensor(wide_y, {2 * padded, D}));
  without.layer.forward(without.pass, tensor(x, {2 * S, D}), tensor(y, {2 * S, D}));
  for (int64_t b = 0; b < 2; ++b) {
    const auto row = wide_y.begin() + b * padded * D;
    test::check_same_bits({row, row + S * D}, {y.begin() + b * S * D, y.begin() + (b + 1) * S * D}, "y");
    for (auto value = row + S * D; value != row + padded * D; ++value) CHECK(*value == 0);
  }
  with.end_step(), without.end_step();
  CHECK(with.layer.aux_loss(0) == without.layer.aux_loss(0));
  CHECK(with.layer.statistics().z_sums_G == without.layer.statistics().z_sums_G);
  CHECK(with.layer.statistics().tokens_per_expert_GE == without.layer.statistics().tokens_per_expert_GE);
  CHECK(with.layer.statistics().dropped_G == without.layer.statistics().dropped_G);
}

TEST_CASE("moe_layer: balance by sequence is balance by granule, bit by bit, where a granule is one sequence") {
  std::vector<std::vector<float>> results;
  for (const char* scope : {"granule", "sequence"}) {
    Variant variant{"", [](ModelConfig& c) { c.router.aux_loss_scope = "sequence"; }, 4, 4};
    if (std::string(scope) == "granule") variant.change = [](ModelConfig&) {};
    Fixture f(variant);
    const auto x = test::values(7, f.tokens * 5), dy = test::values(8, f.tokens * 5);
    auto y = test::poisoned(f.tokens * 5), dx = test::poisoned(f.tokens * 5);
    f.layer.forward(f.pass, tensor(x, {f.tokens, 5}), tensor(y, {f.tokens, 5}));
    f.layer.backward(f.pass, tensor(x, {f.tokens, 5}), tensor(dy, {f.tokens, 5}), tensor(dx, {f.tokens, 5}));
    f.end_step();
    for (int64_t g = 0; g < 4; ++g) dx.push_back(static_cast<float>(f.layer.aux_loss(g)));
    results.push_back(dx);
  }
  test::check_same_bits(results[0], results[1], "dx and losses");
}

TEST_CASE("moe_layer: evaluation drops nothing and counts nothing") {
  const Variant variant{"", [](ModelConfig& c) { c.router.capacity_factor = 0.5; }};
  Fixture f(variant);
  f.pass.training = false;
  const auto x = test::values(7, f.tokens * 5);
  auto y = test::poisoned(f.tokens * 5);
  f.layer.forward(f.pass, tensor(x, {f.tokens, 5}), tensor(y, {f.tokens, 5}));
  f.reference.config.router.capacity_factor.reset();
  test::check_close(y, f.reference(test::to_double(x), f.weights).y_TD, 3e-6, "y");
  f.end_step();
  for (int64_t count : f.layer.statistics().tokens_per_expert_GE) CHECK(count == 0);
  for (int64_t dropped : f.layer.statistics().dropped_G) CHECK(dropped == 0);
}

TEST_CASE("moe_layer: one expert is a dense FFN, and equal experts are too whoever is chosen") {
  for (int64_t E : {1, 6}) {
    Variant variant{"", [](ModelConfig&) {}};
    Fixture f(variant);
    f.config.num_experts = E;
    f.config.num_experts_per_tok = std::min<int64_t>(E, 2);
    f.config.router = {};
    nn::ParameterStore store, dense_store;
    moe::MoeShared shared{.seed = 1, .granules_per_step = 2};
    moe::MoeLayer layer(f.config, kLayer, store, *f.ep, shared);
    nn::DenseFfn dense(dense_store, "dense", kLayer, 5, 3, {});
    store.commit(1, true), dense_store.commit(1, true);
    store.initialize(3), dense_store.initialize(3);
    for (nn::Parameter& p : store.all()) {  // every expert gets the dense weights
      const size_t dot = p.spec.name.find("_proj.weight");
      if (dot == std::string::npos) continue;
      const std::string part = p.spec.name.substr(p.spec.name.rfind('.', dot));
      const nn::Parameter* twin = dense_store.find("dense" + part);
      REQUIRE(twin != nullptr);
      std::copy(twin->weight.f32(), twin->weight.f32() + twin->elements, p.weight.f32());
    }
    ArenaPlan plan, dense_plan;
    layer.plan(plan, f.tokens), dense.plan(dense_plan, f.tokens);
    Arena arena(plan), dense_arena(dense_plan);
    const auto x = test::values(7, f.tokens * 5);
    auto y = test::poisoned(f.tokens * 5), expected = test::poisoned(f.tokens * 5);
    f.pass.arena = &arena;
    layer.begin_step();
    layer.forward(f.pass, tensor(x, {f.tokens, 5}), tensor(y, {f.tokens, 5}));
    f.pass.arena = &dense_arena;
    dense.forward(f.pass, tensor(x, {f.tokens, 5}), tensor(expected, {f.tokens, 5}));
    test::check_close(y, expected, 1e-6, "y");
  }
}
