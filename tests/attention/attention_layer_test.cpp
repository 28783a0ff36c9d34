// The layer against its composition in double precision, for every combination of its options.
#include "attention/attention_layer.h"

#include <map>

#include "tests/attention/causal_attention_reference.h"
#include "tests/support/compare.h"

namespace {

using namespace engine;
using test::AttentionShape;
using test::tensor;
using Doubles = std::vector<double>;
using Weights = std::map<std::string, Doubles>;

constexpr int64_t kHidden = 7, kHeads = 4, kHeadDim = 4, kSeqLen = 6, kLayer = 3;
const std::string kPrefix = "model.layers.3.self_attn.";

struct Variant {
  std::string qk_norm;
  bool bias, interleave;
  int64_t kv_heads;
  std::string name() const {
    return str("qk_norm ", qk_norm, ", bias ", bias, ", interleave ", interleave, ", ", kv_heads, " kv heads");
  }
};
std::vector<Variant> variants() {
  std::vector<Variant> all;
  for (const char* qk_norm : {"none", "head", "full"}) {
    for (bool bias : {false, true}) {
      for (bool interleave : {false, true}) {
        for (int64_t kv_heads : {4, 2, 1}) all.push_back({qk_norm, bias, interleave, kv_heads});
      }
    }
  }
  return all;
}

ModelConfig model_config(const Variant& v) {
  ModelConfig config;
  config.hidden_size = kHidden;
  config.num_hidden_layers = 8;
  config.num_attention_heads = kHeads;
  config.num_key_value_heads = v.kv_heads;
  config.head_dim = kHeadDim;
  config.max_position_embeddings = 16;
  config.rope_theta = 100;
  config.rope_interleave = v.interleave;
  config.attention_bias = v.bias;
  config.qk_norm = v.qk_norm;
  return config;
}

// The layer in a store of its own, with a pass of `sequences` whose second half is a new document.
struct Fixture {
  Fixture(const Variant& variant, int64_t sequences, int64_t granules)
      : config(model_config(variant)),
        layer(config, kLayer, store, std::make_shared<const attention::RopeTables>(config)),
        shape{sequences, kSeqLen, kHeads, variant.kv_heads, kHeadDim} {
    store.commit(granules, true);
    uint64_t seed = 100;
    for (nn::Parameter& p : store.all()) {  // every weight matters, norms and biases too
      const auto values = test::values(++seed, p.elements, 0.7f);
      std::copy(values.begin(), values.end(), p.weight.f32());
      p.gradient.grid = 1.5 * std::ldexp(1.0, 52) * 64 * std::ldexp(1.0, -40);
    }
    store.weights_changed();
    ArenaPlan plan;
    layer.plan(plan, shape.rows());
    arena = Arena(plan);
    for (int64_t t = 0; t < shape.rows(); ++t) {
      const int64_t s = t % kSeqLen, start = s < kSeqLen / 2 ? 0 : kSeqLen / 2;
      starts.push_back(static_cast<int32_t>(start));
      positions.push_back(static_cast<int32_t>(s - start));
    }
  }

  // Sequences [begin, begin + count).
  nn::Pass pass(int64_t begin, int64_t count) {
    return {.arena = &arena,
            .num_sequences = count,
            .seq_len = kSeqLen,
            .training = true,
            .positions = positions.data() + begin * kSeqLen,
            .document_starts = starts.data() + begin * kSeqLen};
  }

  ModelConfig config;
  nn::ParameterStore store;
  attention::AttentionLayer layer;
  AttentionShape shape;
  Arena arena;
  std::vector<int32_t> starts, positions;
};

Doubles project(const Weights& weights, const std::string& name, const Doubles& x, size_t columns) {
  const Doubles& w = weights.at(kPrefix + name + ".weight");
  const auto bias = weights.find(kPrefix + name + ".bias");
  const size_t rows = w.size() / columns;
  Doubles y;
  for (size_t t = 0; t < x.size() / columns; ++t) {
    for (size_t n = 0; n < rows; ++n) {
      double sum = bias == weights.end() ? 0 : bias->second[n];
      for (size_t d = 0; d < columns; ++d) sum += x[t * columns + d] * w[n * columns + d];
      y.push_back(sum);
    }
  }
  return y;
}

void normalize(const Weights& weights, const std::string& name, Doubles& x, double eps) {
  const auto found = weights.find(kPrefix + name + ".weight");
  if (found == weights.end()) return;
  const Doubles& w = found->second;
  for (size_t row = 0; row < x.size(); row += w.size()) {
    double squares = 0;
    for (size_t d = 0; d < w.size(); ++d) squares += x[row + d] * x[row + d];
    const double rstd = 1 / std::sqrt(squares / static_cast<double>(w.size()) + eps);
    for (size_t d = 0; d < w.size(); ++d) x[row + d] *= rstd * w[d];
  }
}

void rotate(Doubles& x, int64_t heads, const Fixture& f) {
  const int64_t half = kHeadDim / 2;
  for (int64_t t = 0; t < f.shape.rows(); ++t) {
    for (int64_t h = 0; h < heads; ++h) {
      double* head = x.data() + (t * heads + h) * kHeadDim;
      for (int64_t i = 0; i < half; ++i) {
        const double frequency = std::pow(f.config.rope_theta, -2.0 * static_cast<double>(i) / kHeadDim);
        const double angle = f.positions[static_cast<size_t>(t)] * frequency;
        double& first = head[f.config.rope_interleave ? 2 * i : i];
        double& second = head[f.config.rope_interleave ? 2 * i + 1 : i + half];
        const double before = first;
        first = before * std::cos(angle) - second * std::sin(angle);
        second = second * std::cos(angle) + before * std::sin(angle);
      }
    }
  }
}

Doubles reference(const Fixture& f, const Weights& weights, const Doubles& x) {
  Doubles q = project(weights, "q_proj", x, kHidden), k = project(weights, "k_proj", x, kHidden);
  const Doubles v = project(weights, "v_proj", x, kHidden);
  normalize(weights, "q_norm", q, f.config.rms_norm_eps);
  normalize(weights, "k_norm", k, f.config.rms_norm_eps);
  rotate(q, kHeads, f);
  rotate(k, f.shape.kv_heads, f);
  return project(weights, "o_proj", test::attention_reference(f.shape, q, k, v, f.starts).o, kHeads * kHeadDim);
}

Weights weights_of(const Fixture& f) {
  Weights weights;
  for (const nn::Parameter& p : f.store.all()) {
    weights[p.spec.name] = Doubles(p.weight.f32(), p.weight.f32() + p.elements);
  }
  return weights;
}

}  // namespace

TEST_CASE("attention_layer: forward and the gradients of input and every weight equal the reference") {
  for (const Variant& variant : variants()) {
    INFO(variant.name());
    Fixture f(variant, 2, 1);
    const int64_t T = f.shape.rows();
    const auto x = test::values(1, T * kHidden), dy = test::values(2, T * kHidden);
    auto y = test::poisoned(T * kHidden), dx = test::poisoned(T * kHidden);
    test::Granules granules({T});
    nn::Pass pass = f.pass(0, 2);
    pass.granules = granules.rows;
    f.layer.forward(pass, tensor(x, {T, kHidden}), tensor(y, {T, kHidden}));
    f.layer.backward(pass, tensor(x, {T, kHidden}), tensor(dy, {T, kHidden}), tensor(dx, {T, kHidden}));
    const Weights weights = weights_of(f);
    const Doubles input = test::to_double(x);
    test::check_close(y, reference(f, weights, input), 3e-6, "y");
    test::check_close(dx,
                      test::finite_difference(input, [&](auto& v) { return test::dot(reference(f, weights, v), dy); }),
                      1e-5, "dx");
    for (const nn::Parameter& p : f.store.all()) {
      const Doubles expected = test::finite_difference(weights.at(p.spec.name), [&](auto& v) {
        Weights changed = weights;
        changed[p.spec.name] = v;
        return test::dot(reference(f, changed, input), dy);
      });
      test::check_close({p.gradient.chain.f32(), p.gradient.chain.f32() + p.elements}, expected, 1e-5, p.spec.name);
    }
  }
}

TEST_CASE("attention_layer: a granule's gradients do not depend on how it is cut into passes") {
  for (const Variant& variant : variants()) {
    INFO(variant.name());
    std::map<std::string, Doubles> first_sums;
    std::vector<float> first_dx;
    for (int64_t sequences : {4, 2, 1}) {  // of a pass: two granules, one, half of one
      Fixture f(variant, 4, 2);
      const int64_t T = f.shape.rows(), rows = sequences * kSeqLen;
      const auto x = test::values(1, T * kHidden), dy = test::values(2, T * kHidden);
      auto y = test::poisoned(T * kHidden), dx = test::poisoned(T * kHidden);
      for (int64_t begin = 0; begin < 4; begin += sequences) {
        test::Granules granules(std::vector<int64_t>(sequences == 4 ? 2 : 1, std::min(rows, 2 * kSeqLen)),
                                (begin + sequences) % 2 == 0);
        nn::Pass pass = f.pass(begin, sequences);
        pass.granules = granules.rows;
        auto part = [&](auto& v) { return tensor(v, {T, kHidden}).slice_rows(begin * kSeqLen, rows); };
        f.layer.forward(pass, part(x), part(y));
        f.layer.backward(pass, part(x), part(dy), part(dx));
      }
      if (first_dx.empty()) first_dx = dx;
      test::check_same_bits(dx, first_dx, "dx");
      for (const nn::Parameter& p : f.store.all()) {
        const Doubles sum(p.gradient.sum, p.gradient.sum + p.elements);
        const Doubles& first = first_sums.try_emplace(p.spec.name, sum).first->second;
        CHECK_MESSAGE(std::memcmp(sum.data(), first.data(), sum.size() * sizeof(double)) == 0, p.spec.name);
      }
    }
  }
}

TEST_CASE("attention_layer: with kept keys every position gives the bits of the whole pass") {
  for (const Variant& variant : variants()) {
    INFO(variant.name());
    Fixture f(variant, 2, 1);
    const int64_t T = f.shape.rows();
    const auto x = test::values(1, T * kHidden);
    auto whole = test::poisoned(T * kHidden), kept = test::poisoned(T * kHidden);
    f.layer.forward(f.pass(0, 2), tensor(x, {T, kHidden}), tensor(whole, {T, kHidden}));
    f.layer.reserve_keys(2, kSeqLen + 3);
    for (int64_t begin = 0, length = 2; begin < kSeqLen; begin += length, length = 1) {  // a prompt, then one by one
      std::vector<float> part_x, part_y = test::poisoned(2 * length * kHidden);
      std::vector<int32_t> positions, starts;
      for (int64_t b = 0; b < 2; ++b) {
        const int64_t row = b * kSeqLen + begin;
        part_x.insert(part_x.end(), x.begin() + row * kHidden, x.begin() + (row + length) * kHidden);
        positions.insert(positions.end(), f.positions.begin() + row, f.positions.begin() + row + length);
        starts.insert(starts.end(), f.starts.begin() + row, f.starts.begin() + row + length);
      }
      nn::Pass pass = f.pass(0, 2);
      pass.seq_len = length;
      const nn::KeptSequence where[2] = {{.slot = 1, .position = begin}, {.slot = 0, .position = begin}};
      pass.kept = where;
      pass.training = false;
      pass.positions = positions.data();
      pass.document_starts = starts.data();
      f.layer.forward(pass, tensor(part_x, {2 * length, kHidden}), tensor(part_y, {2 * length, kHidden}));
      for (int64_t b = 0; b < 2; ++b) {
        std::copy_n(part_y.begin() + b * length * kHidden, length * kHidden,
                    kept.begin() + (b * kSeqLen + begin) * kHidden);
      }
    }
    test::check_same_bits(kept, whole, "y");
  }
}

TEST_CASE("attention_layer: weights have the names, shapes and beginnings of the design") {
  Fixture f({"head", true, false, 2}, 1, 1);
  const std::map<std::string, std::vector<int64_t>> expected = {
      {"q_proj.weight", {16, 7}}, {"q_proj.bias", {16}},     {"k_proj.weight", {8, 7}},
      {"k_proj.bias", {8}},       {"v_proj.weight", {8, 7}}, {"v_proj.bias", {8}},
      {"o_proj.weight", {7, 16}}, {"q_norm.weight", {4}},    {"k_norm.weight", {4}}};
  CHECK(f.store.all().size() == expected.size());
  for (const auto& [name, dims] : expected) {
    const nn::Parameter* p = f.store.find(kPrefix + name);
    REQUIRE_MESSAGE(p != nullptr, name);
    CHECK_MESSAGE(p->spec.dims == dims, name);
    CHECK_MESSAGE(p->spec.decays == (name.find("proj.weight") != std::string::npos), name);
    CHECK_MESSAGE(p->spec.layer == kLayer, name);
    CHECK_MESSAGE((p->spec.init == nn::Init::ones) == (name.find("norm") != std::string::npos), name);
  }
  CHECK(f.store.find(kPrefix + "q_proj.weight")->spec.deviation == doctest::Approx(0.02));
  CHECK(f.store.find(kPrefix + "o_proj.weight")->spec.deviation == doctest::Approx(0.02 / 4));
  Fixture full({"full", false, false, 2}, 1, 1);
  CHECK(full.store.find(kPrefix + "q_norm.weight")->spec.dims == std::vector<int64_t>{16});
  CHECK(full.store.find(kPrefix + "k_norm.weight")->spec.dims == std::vector<int64_t>{8});
}

TEST_CASE("attention_layer: keys beyond the reserved room are refused") {
  Fixture f({"none", false, false, 4}, 1, 1);
  const auto x = test::values(1, kSeqLen * kHidden);
  auto y = test::poisoned(kSeqLen * kHidden);
  nn::Pass pass = f.pass(0, 1);
  const nn::KeptSequence where[1] = {{.slot = 0, .position = 0}}, second[1] = {{.slot = 1, .position = 0}};
  pass.kept = where;
  auto run = [&] { f.layer.forward(pass, tensor(x, {kSeqLen, kHidden}), tensor(y, {kSeqLen, kHidden})); };
  CHECK_THROWS_AS(run(), Error);
  f.layer.reserve_keys(1, kSeqLen - 1);
  CHECK_THROWS_WITH_AS(run(), doctest::Contains("beyond the room for 5 keys"), Error);
  f.layer.reserve_keys(1, kSeqLen);
  CHECK_NOTHROW(run());
  pass.kept = second;
  CHECK_THROWS_WITH_AS(run(), doctest::Contains("no room for the keys of sequence 1"), Error);
}
