// Mixtral, OLMoE and Qwen3-MoE against what transformers computed in fp32: logits, losses, every gradient, and the
// weights after three AdamW steps. Weights and tokens follow from a formula; tests/golden holds the results only,
// written by scripts/make_transformers_fixtures.py (versions of torch and transformers in their metadata).
#include <cstdlib>
#include <map>

#include "engine/checkpoint/safetensors.h"
#include "engine/train/trainer.h"
#include "tests/support/compare.h"

namespace {

using namespace engine;

constexpr int64_t kSequences = 2, kLength = 12;

Config base() {
  Config c;
  c.model.vocab_size = 48;
  c.model.hidden_size = 24;
  c.model.num_hidden_layers = 2;
  c.model.num_attention_heads = 4;
  c.model.num_key_value_heads = 2;
  c.model.max_position_embeddings = kLength;
  c.model.num_experts = 6;
  c.model.moe_intermediate_size = 20;
  c.model.rms_norm_eps = 1e-5;
  c.model.router.aux_loss_kind = "hf";
  c.model.router.aux_loss_coef = 0.02;
  c.train.seq_len = kLength;
  c.train.batch_tokens = {kSequences * kLength};
  c.train.granules = 1;
  c.optim.lr = 1e-4;
  c.optim.schedule = "constant";
  c.optim.grad_clip = 1.0;
  return c;
}
Config mixtral() {
  Config c = base();
  c.model.head_dim = 6;
  return c;
}
Config olmoe() {
  Config c = base();
  c.model.num_key_value_heads = 4;
  c.model.qk_norm = "full";
  c.model.norm_topk_prob = false;
  c.model.num_experts_per_tok = 3;
  return c;
}
Config qwen3_moe() {
  Config c = base();
  c.model.qk_norm = "head";
  c.model.head_dim = 8;
  c.model.num_hidden_layers = 3;
  c.model.mlp_only_layers = {1};
  c.model.intermediate_size = 28;
  c.model.rms_norm_eps = 1e-6;
  return c;
}

uint32_t crc32(const std::string& text) {
  uint32_t crc = ~0u;
  for (char c : text) {
    crc ^= static_cast<uint8_t>(c);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0xEDB88320u : 0u);
  }
  return ~crc;
}

// The formula: 32 bits that depend on seed, name and element.
uint32_t bits(uint64_t seed, const std::string& name, int64_t i) {
  uint64_t x = seed * 1000003 + crc32(name) + static_cast<uint64_t>(i);
  for (uint64_t factor : {0xBF58476D1CE4E5B9ull, 0x94D049BB133111EBull}) x = (x ^ (x >> 30)) * factor;
  return static_cast<uint32_t>(x >> 32);
}
float initial_weight(uint64_t seed, const nn::ParameterSpec& spec, int64_t i) {
  const float unit = static_cast<float>(bits(seed, spec.name, i) >> 8) / 8388608.0f - 1.0f;
  if (spec.dims.size() == 1) return 1.0f + 0.2f * unit;
  return (spec.name.ends_with(".mlp.gate.weight") ? 0.6f : 0.2f) * unit;
}

class Golden {
 public:
  explicit Golden(const std::string& family)
      : file_(std::string(std::getenv("DATA")) + "/tests/golden", family + ".safetensors") {}
  std::vector<float> operator[](const std::string& name) const {
    const auto* entry = file_.find(name);
    REQUIRE_MESSAGE(entry != nullptr, "the fixture has no ", name);
    std::vector<float> values(static_cast<size_t>(entry->elements()));
    file_.read(*entry, 0, entry->elements(), values.data());
    return values;
  }
  int64_t count(const std::string& prefix) const {
    int64_t count = 0;
    for (const auto& entry : file_.entries()) count += entry.name.starts_with(prefix) ? 1 : 0;
    return count;
  }
  uint64_t seed() const { return static_cast<uint64_t>((*this)["seed"][0]); }

 private:
  checkpoint::SafetensorsFile file_;
};

void set_weights(nn::ParameterStore& store, uint64_t seed) {
  for (nn::Parameter& p : store.all()) {
    for (int64_t i = 0; i < p.elements; ++i) p.weight.f32()[i] = initial_weight(seed, p.spec, i);
  }
  store.weights_changed();
}

int32_t token(uint64_t seed, int64_t sequence, int64_t position) {
  return static_cast<int32_t>(bits(seed, "tokens", sequence * (kLength + 1) + position) % 48);
}

// |a - b| / |b| over all elements; also holds exact zeros to be zero.
double relative_distance(const float* actual, const std::vector<float>& expected, const std::string& name) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double e = static_cast<double>(expected[i]), d = static_cast<double>(actual[i]) - e;
    difference += d * d, norm += e * e;
    if (expected[i] == 0) REQUIRE_MESSAGE(actual[i] == 0, name, ": element ", i, " is ", actual[i], " but should be 0");
  }
  return norm > 0 ? std::sqrt(difference / norm) : difference;
}

// One pass over the whole batch, forward and backward, without an optimizer.
struct OnePass {
  OnePass(const Config& config, uint64_t seed) : ep(comm::make_self_group()), model(config, store, *ep) {
    const int64_t T = kSequences * kLength, V = config.model.vocabulary();
    store.commit(1, true);
    set_weights(store, seed);
    model.plan(T);
    std::vector<int32_t> tokens, targets, positions;
    for (int64_t t = 0; t < T; ++t) {
      tokens.push_back(token(seed, t / kLength, t % kLength));
      targets.push_back(token(seed, t / kLength, t % kLength + 1));
      positions.push_back(static_cast<int32_t>(t % kLength));
    }
    const std::vector<int32_t> starts(static_cast<size_t>(T), 0);
    const std::vector<int64_t> offsets{0, T};
    const int64_t granule = 0;
    nn::Pass pass{.num_sequences = kSequences,
                  .seq_len = kLength,
                  .training = true,
                  .positions = positions.data(),
                  .document_starts = starts.data(),
                  .granules = {offsets.data(), 1, true},
                  .granule_numbers = &granule,
                  .granule_counted = &T,
                  .loss_scale = 1.0 / static_cast<double>(T)};
    losses = test::poisoned(T), logits = test::poisoned(T * V);
    const ConstTensor tokens_T(tokens.data(), DType::i32, {T});
    model.begin_step();
    model.begin_pass(pass, tokens_T, ConstTensor(targets.data(), DType::i32, {T}));
    model.forward(pass);
    model.logits(pass, 0, test::tensor(logits, {T, V}));
    model.loss(pass, test::tensor(losses, {T}));
    model.backward(pass);
    model.end_step();
  }
  double loss() const {
    double sum = 0;
    for (float loss : losses) sum += static_cast<double>(loss);
    return sum / static_cast<double>(losses.size());
  }
  std::unique_ptr<comm::Group> ep;
  nn::ParameterStore store;
  model::Model model;
  std::vector<float> losses, logits;
};

const std::map<std::string, Config (*)()> kFamilies = {
    {"mixtral", mixtral}, {"olmoe", olmoe}, {"qwen3_moe", qwen3_moe}};

}  // namespace

TEST_CASE("transformers: logits, losses and every gradient") {
  for (const auto& [family, config] : kFamilies) {
    INFO(family);
    const Golden golden(family);
    OnePass pass(config(), golden.seed());
    test::check_close(pass.logits, golden["logits"], 1e-5, "logits");
    const double aux = static_cast<double>(golden["aux_loss"][0]), loss = static_cast<double>(golden["loss"][0]);
    const double total = pass.loss() + 0.02 * pass.model.aux_loss(0, 0);
    CHECK(total == doctest::Approx(loss + 0.02 * aux).epsilon(1e-6));
    CHECK(golden.count("gradient.") == static_cast<int64_t>(pass.store.all().size()));
    double worst = 0;
    for (nn::Parameter& p : pass.store.all()) {
      const double distance =
          relative_distance(p.gradient.chain.f32(), golden["gradient." + p.spec.name], "gradient of " + p.spec.name);
      CHECK_MESSAGE(distance < 1e-4, "gradient of ", p.spec.name, " is off by ", distance);
      worst = std::max(worst, distance);
    }
    MESSAGE(family, ": gradients are off by at most ", worst);
  }
}

TEST_CASE("transformers: weights after three AdamW steps with clipping") {
  for (const auto& [family, config] : kFamilies) {
    INFO(family);
    const Golden golden(family);
    comm::ParallelGroups groups = comm::make_parallel_groups(comm::make_self_group(), 1);
    train::Trainer trainer(config(), groups);
    set_weights(trainer.store(), golden.seed());
    for (int step = 0; step < 3; ++step) {
      trainer.train_step(0, [&](int64_t sample, int32_t* tokens) {
        for (int64_t s = 0; s <= kLength; ++s) tokens[s] = token(golden.seed(), sample, s);
      });
    }
    for (nn::Parameter& p : trainer.store().all()) {
      const std::vector<float> after = golden["after." + p.spec.name];
      const double distance = relative_distance(p.weight.f32(), after, p.spec.name);
      CHECK_MESSAGE(distance < 1e-5, p.spec.name, " is off by ", distance);
      // the steps themselves, not only the weights they were small beside
      std::vector<float> moved, expected;
      for (int64_t i = 0; i < p.elements; ++i) {
        const float before = initial_weight(golden.seed(), p.spec, i);
        moved.push_back(p.weight.f32()[i] - before), expected.push_back(after[static_cast<size_t>(i)] - before);
      }
      test::check_close(moved, expected, 0.02, "the change of " + p.spec.name);
    }
  }
}
