// Sequences decoded together have the bits they have alone, and those of a pass over the whole.
#include "engine/train/decoder.h"

#include <algorithm>
#include <map>
#include <string>

#include "engine/core/rng.h"
#include "engine/core/thread_pool.h"
#include "engine/data/document_mask.h"
#include "engine/train/generate.h"
#include "engine/train/generation_cost.h"
#include "tests/support/compare.h"
#include "tests/support/tiny_run.h"

using namespace engine;
using train::Decoder;

namespace {

constexpr int64_t kRoom = 90;  // more than one tile of attention

Config text_config() {
  Config config = test::tiny_config();
  config.model.vocab_size = 257;
  config.model.max_position_embeddings = kRoom;
  config.model.n_shared_experts = 1;
  return config;
}

struct Fixture {
  explicit Fixture(const Config& c) : config(c), group(comm::make_self_group()), model(config, store, *group) {
    store.commit(1, false);
    store.initialize(5);
  }
  Config config;
  std::unique_ptr<comm::Group> group;
  nn::ParameterStore store;
  model::Model model;
};

// Bytes with the end of a document here and there.
std::vector<int32_t> some_tokens(uint64_t sequence, int64_t count) {
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t bits = philox(9, static_cast<uint64_t>(i), sequence)[0];
    tokens.push_back(bits % 23 == 0 ? 256 : static_cast<int32_t>(bits >> 8 & 255));
  }
  return tokens;
}

std::vector<float> copy(std::span<const float> logits) {
  return {logits.begin(), logits.end()};
}

// Logits of every position, by one pass over the whole.
std::vector<float> whole_pass(Fixture& f, const std::vector<int32_t>& tokens) {
  const int64_t T = std::ssize(tokens), V = f.config.model.vocabulary();
  std::vector<int32_t> positions(tokens.size()), starts(tokens.size());
  data::document_mask(tokens.data(), T, true, positions.data(), starts.data());
  f.model.plan(T);
  nn::Pass pass{.num_sequences = 1, .seq_len = T, .positions = positions.data(), .document_starts = starts.data()};
  f.model.begin_pass(pass, ConstTensor(tokens.data(), DType::i32, {T}));
  f.model.forward(pass);
  std::vector<float> logits = test::poisoned(T * V);
  f.model.logits(pass, 0, Tensor(logits.data(), DType::f32, {T, V}));
  return logits;
}

}  // namespace

TEST_CASE("decoder: sequences of different lengths together have the bits of each alone") {
  Fixture f(text_config());
  const int64_t V = f.config.model.vocabulary();
  const std::vector<int64_t> prompts = {3, 70, 1, 21, 64}, ends = {20, 84, 12, 21, 80};
  std::vector<std::vector<int32_t>> tokens;
  std::vector<std::vector<float>> expected;
  for (size_t b = 0; b < prompts.size(); ++b) {
    tokens.push_back(some_tokens(b, ends[b]));
    expected.push_back(whole_pass(f, tokens[b]));
  }
  const auto row = [&](size_t b, int64_t t) {
    return std::vector<float>(expected[b].begin() + t * V, expected[b].begin() + (t + 1) * V);
  };
  for (int threads : {1, 3}) {
    ThreadPool pool(threads);
    pool.make_current();
    Decoder together(f.model, f.config.model, 5);
    for (size_t b = 0; b < prompts.size(); ++b) {
      together.read(static_cast<int64_t>(b), std::span(tokens[b]).first(static_cast<size_t>(prompts[b])));
      test::check_same_bits(copy(together.logits(static_cast<int64_t>(b))), row(b, prompts[b] - 1), "after the prompt");
    }
    for (int64_t step = 0; step < 20; ++step) {
      std::vector<int64_t> going;
      std::vector<int32_t> next;
      for (size_t b = 0; b < prompts.size(); ++b) {
        if (prompts[b] + step >= ends[b]) continue;
        going.push_back(static_cast<int64_t>(b));
        next.push_back(tokens[b][static_cast<size_t>(prompts[b] + step)]);
      }
      together.advance(going, next);
      for (int64_t b : going) {
        const size_t at = static_cast<size_t>(b);
        test::check_same_bits(copy(together.logits(b)), row(at, prompts[at] + step), "after another token");
      }
    }
  }
}

TEST_CASE("decoder: a sequence is read anew, and a full one is refused") {
  Fixture f(text_config());
  Decoder decoder(f.model, f.config.model, 2);
  const std::vector<int32_t> first = some_tokens(1, kRoom), second = some_tokens(2, 7);
  decoder.read(1, first);
  CHECK(decoder.length(1) == kRoom);
  const int64_t sequence[1] = {1};
  const int32_t token[1] = {65};
  CHECK_THROWS_WITH(decoder.advance(sequence, token), doctest::Contains("sequence 1 is full"));
  decoder.read(1, second);
  const std::vector<float> again = copy(decoder.logits(1));
  decoder.read(0, second);
  test::check_same_bits(copy(decoder.logits(0)), again, "read anew");
}

TEST_CASE("generate: the text of a prompt does not depend on the others, beyond a full context too") {
  Fixture f(text_config());
  const std::vector<std::vector<int32_t>> prompts = {some_tokens(1, 5), some_tokens(2, 80), some_tokens(3, 1),
                                                     some_tokens(4, 200)};
  const train::GenerateOptions options{.max_tokens = 60, .temperature = 0.9, .seed = 3};
  const train::Generated together = train::generate(f.model, f.config.model, prompts, options);
  int64_t count = 0;
  for (size_t i = 0; i < prompts.size(); ++i) {
    const train::Generated alone = train::generate(f.model, f.config.model, {prompts[i]}, options);
    CHECK(alone.tokens[0] == together.tokens[i]);
    count += std::ssize(alone.tokens[0]);
  }
  CHECK(together.num_tokens() == count);
  CHECK(count > 100);
}

TEST_CASE("generation_cost: bytes of weights and of keys and values") {
  ModelConfig m;
  m.hidden_size = 8;
  m.num_hidden_layers = 2;
  m.num_attention_heads = 2;
  m.num_key_value_heads = 1;
  m.vocab_size = 10;
  m.num_experts = 4;
  m.num_experts_per_tok = 1;
  m.moe_intermediate_size = 16;
  const double expert = 3 * 8 * 16, layer = 8 * 8 * 2 + 8 * 4 * 2 + 2 * 8 + 8 * 4, head = 8 * 10 + 8;
  const train::GenerationCost one = train::generation_cost(m, 1, 100);
  CHECK(one.experts == doctest::Approx(1));
  CHECK(one.weight_bytes == doctest::Approx(4 * (2 * (layer + expert) + head)));
  CHECK(one.cache_bytes_per_token == 2 * 2 * 4 * 4);
  CHECK(one.cache_bytes == 100 * one.cache_bytes_per_token);
  const train::GenerationCost two = train::generation_cost(m, 2, 0);
  CHECK(two.experts == doctest::Approx(4 * (1 - 0.75 * 0.75)));
  m.tie_word_embeddings = true;
  CHECK(train::generation_cost(m, 2, 0, 3).weight_bytes == doctest::Approx(4 * (2 * (layer + 3 * expert) + head)));
}
