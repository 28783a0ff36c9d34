// The whole model: every weight's gradient against the change of the loss, and generation against the whole pass.
#include "engine/model/model.h"

#include <map>

#include "engine/data/document_mask.h"
#include "tests/support/compare.h"
#include "tests/support/tiny_run.h"

namespace {

using namespace engine;

constexpr int64_t kSequences = 3;

struct Variant {
  const char* name;
  std::function<void(Config&)> change;
};
const Variant kVariants[] = {
    {"softmax, balance losses", [](Config&) {}},
    {"not normalised, scaled, query/key norm per head, tied",
     [](Config& c) {
       c.model.norm_topk_prob = false;
       c.model.routed_scaling_factor = 2.5;
       c.model.qk_norm = "head";
       c.model.tie_word_embeddings = true;
     }},
    {"sigmoid in groups, shared expert with gate, biases, interleaved positions",
     [](Config& c) {
       c.model.scoring_func = "sigmoid";
       c.model.n_group = 2;
       c.model.n_shared_experts = 2;
       c.model.shared_expert_gate = true;
       c.model.attention_bias = true;
       c.model.rope_interleave = true;
     }},
    {"balance by sequence, norm over the projection, a dense layer",
     [](Config& c) {
       c.model.router.aux_loss_scope = "sequence";
       c.model.qk_norm = "full";
       c.model.first_k_dense_replace = 1;
       c.model.intermediate_size = 28;
     }},
    {"pooled balance loss", [](Config& c) { c.model.router.aux_loss_kind = "hf"; }},
    {"dense model", [](Config& c) { c.model.num_experts = 0; }},
    {"capacity", [](Config& c) { c.model.router.capacity_factor = 0.7; }},
    {"jitter, shared expert without gate",
     [](Config& c) {
       c.model.router.jitter = 0.2;
       c.model.n_shared_experts = 1;
     }},
    {"softmax in groups, expert bias, balance against the step before",
     [](Config& c) {
       c.model.n_group = 4;
       c.model.topk_group = 2;
       c.model.router.bias_update_rate = 0.001;
       c.model.router.aux_loss_scope = "global";
     }},
    {"every expert, one key/value head, biases",
     [](Config& c) {
       c.model.num_experts_per_tok = c.model.num_experts;
       c.model.num_key_value_heads = 1;
       c.model.attention_bias = true;
       c.model.qk_norm = "full";
     }},
};

struct Fixture {
  explicit Fixture(const Variant& variant)
      : config(changed(variant)), ep(comm::make_self_group()), model(config, store, *ep) {
    store.commit(1, true);
    store.initialize(5);
    model.plan(kSequences * config.train.seq_len);
    for (moe::MoeLayer* layer : model.moe_layers()) {
      if (layer->expert_bias()) layer->expert_bias()->values() = test::values(6, config.model.num_experts, 0.05f);
      if (config.model.router.aux_loss_scope == "global") layer->previous_counts() = {3, 0, 8, 1, 5, 9, 2, 4};
    }
    const int64_t S = config.train.seq_len, T = kSequences * S;
    tokens.resize(static_cast<size_t>(T)), targets = positions = starts = tokens;
    losses.resize(static_cast<size_t>(T));
    offsets = {0, T};
    for (int64_t b = 0; b < kSequences; ++b) {
      std::vector<int32_t> sample(static_cast<size_t>(S + 1));
      test::tiny_sample(config, b, sample.data());
      const auto row = static_cast<std::ptrdiff_t>(b * S);
      std::copy(sample.begin(), sample.end() - 1, tokens.begin() + row);
      std::copy(sample.begin() + 1, sample.end(), targets.begin() + row);
      data::document_mask(sample.data(), S, true, positions.data() + row, starts.data() + row);
    }
    counted = T;
    pass = {.num_sequences = kSequences,
            .seq_len = S,
            .training = true,
            .positions = positions.data(),
            .document_starts = starts.data(),
            .granules = {offsets.data(), 1, true},
            .granule_numbers = &granule,
            .granule_counted = &counted,
            .sequences_per_granule = kSequences,
            .loss_scale = 1.0 / static_cast<double>(T)};
  }
  static Config changed(const Variant& variant) {
    Config config = test::tiny_config();
    config.train.granules = 1;
    config.model.router.aux_loss_coef = 0.1;
    config.model.router.z_loss_coef = 0.05;
    variant.change(config);
    return config;
  }
  ConstTensor view(const std::vector<int32_t>& data) {
    return {data.data(), DType::i32, {static_cast<int64_t>(data.size())}};
  }

  // The objective that training descends; with `backward` it also fills the gradients.
  double objective(bool backward) {
    model.begin_step();
    nn::Pass one = pass;
    model.begin_pass(one, view(tokens), view(targets));
    model.forward(one);
    model.loss(one, Tensor(losses.data(), DType::f32, {static_cast<int64_t>(losses.size())}));
    if (backward) model.backward(one);
    model.end_step();
    double total = 0;
    for (float loss : losses) total += static_cast<double>(loss) * pass.loss_scale;
    const RouterConfig& router = config.model.router;
    const double sequences = router.aux_loss_scope == "sequence" ? kSequences : 1;
    for (size_t l = 0; l < model.moe_layers().size(); ++l) {
      moe::MoeLayer& layer = *model.moe_layers()[l];
      if (router.aux_loss_kind != "hf" || l == 0) total += router.aux_loss_coef * model.aux_loss(l, 0) / sequences;
      total += router.z_loss_coef * layer.statistics().z_sums_G[0] / static_cast<double>(counted);
    }
    return total;
  }

  Config config;
  std::unique_ptr<comm::Group> ep;
  nn::ParameterStore store;
  model::Model model;
  std::vector<int32_t> tokens, targets, positions, starts;
  std::vector<float> losses;
  std::vector<int64_t> offsets;
  int64_t granule = 0, counted = 0;
  nn::Pass pass;
};

}  // namespace

TEST_CASE("model: the loss changes along every weight's gradient as the gradient says") {
  for (const Variant& variant : kVariants) {
    INFO(variant.name);
    Fixture f(variant);
    f.objective(true);
    std::map<std::string, std::vector<double>> gradients;
    for (nn::Parameter& p : f.store.all()) {
      std::vector<double>& g = gradients[p.spec.name];
      for (int64_t i = 0; i < p.elements; ++i) {
        g.push_back(static_cast<double>(p.gradient.chain.f32()[i]) +
                    (p.tied.chain ? static_cast<double>(p.tied.chain.f32()[i]) : 0.0));
      }
    }
    int64_t checked = 0;
    for (nn::Parameter& p : f.store.all()) {
      const std::vector<double>& g = gradients[p.spec.name];
      double norm = 0, largest = 0;
      for (double x : g) norm += x * x, largest = std::max(largest, std::abs(x));
      norm = std::sqrt(norm);
      if (norm < 1e-5) continue;  // an expert without tokens
      // step along the gradient: small enough that no choice flips, large enough to show in fp32
      const double step = std::min(2e-3 / norm, 4e-3 / largest);
      const std::vector<float> saved(p.weight.f32(), p.weight.f32() + p.elements);
      double values[2], moved = 0;
      for (int side : {0, 1}) {
        moved = 0;
        for (int64_t i = 0; i < p.elements; ++i) {
          const size_t at = static_cast<size_t>(i);
          p.weight.f32()[i] = saved[at] + static_cast<float>((side == 0 ? step : -step) * g[at]);
          moved += std::abs(static_cast<double>(p.weight.f32()[i]) - static_cast<double>(saved[at])) * std::abs(g[at]);
        }
        f.store.weights_changed();
        values[side] = f.objective(false);
      }
      std::copy(saved.begin(), saved.end(), p.weight.f32());
      const double measured = values[0] - values[1], expected = 2 * moved;
      CHECK_MESSAGE(measured == doctest::Approx(expected).epsilon(0.02), p.spec.name, ": the loss changed by ",
                    measured, " but the gradient says ", expected);
      ++checked;
    }
    CHECK(checked > 15);
  }
}

TEST_CASE("model: logits with kept keys and values equal those of the whole pass bit by bit") {
  for (const Variant& variant : kVariants) {
    INFO(variant.name);
    Fixture f(variant);
    const int64_t S = f.config.train.seq_len, V = f.config.model.vocabulary();
    f.pass.training = false;
    std::vector<float> whole = test::poisoned(S * V), one = test::poisoned(V);
    nn::Pass pass = f.pass;
    pass.num_sequences = 1;
    pass.granules = {};
    const ConstTensor tokens = ConstTensor(f.tokens.data(), DType::i32, {S});
    f.model.begin_pass(pass, tokens);
    f.model.forward(pass);
    f.model.logits(pass, 0, test::tensor(whole, {S, V}));
    f.model.reserve_keys(1, S);
    for (int64_t begin = 0, length = 5; begin < S; begin += length, length = 1) {  // a prompt, then token by token
      nn::Pass part = pass;
      part.seq_len = length;
      const nn::KeptSequence where[1] = {{.slot = 0, .position = begin}};
      part.kept = where;
      part.positions += begin;
      part.document_starts += begin;
      f.model.begin_pass(part, tokens.slice_rows(begin, length));
      f.model.forward(part);
      f.model.logits(part, length - 1, test::tensor(one, {1, V}));
      const int64_t row = begin + length - 1;
      test::check_same_bits(one, {whole.begin() + row * V, whole.begin() + (row + 1) * V}, "logits");
    }
  }
}
