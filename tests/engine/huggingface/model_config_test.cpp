#include "engine/huggingface/model_config.h"

#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "engine/config/canonical.h"
#include "engine/core/error.h"
#include "engine/huggingface/family.h"
#include "tests/support/temporary_directory.h"

using namespace engine;
using Json = nlohmann::json;

namespace {

ModelConfig read(const Json& json) {
  const test::TemporaryDirectory place;
  std::ofstream(place.path() + "/config.json") << json.dump();
  return huggingface::read_model_config(place.path());
}

std::string refusal(const Json& json) {
  try {
    read(json);
  } catch (const Error& error) {
    CHECK(error.code() == ExitCode::checkpoint);
    return error.what();
  }
  return "it was read";
}

// As transformers 5 writes it.
Json mixtral() {
  return {{"architectures", {"MixtralForCausalLM"}},
          {"model_type", "mixtral"},
          {"attention_dropout", 0.0},
          {"dtype", "bfloat16"},
          {"head_dim", nullptr},
          {"hidden_act", "silu"},
          {"hidden_size", 32},
          {"initializer_range", 0.03},
          {"intermediate_size", 40},
          {"max_position_embeddings", 64},
          {"num_attention_heads", 4},
          {"num_experts_per_tok", 2},
          {"num_hidden_layers", 3},
          {"num_key_value_heads", 2},
          {"num_local_experts", 6},
          {"rms_norm_eps", 1e-5},
          {"rope_parameters", {{"rope_theta", 1e6}, {"rope_type", "default"}}},
          {"router_aux_loss_coef", 0.02},
          {"sliding_window", nullptr},
          {"tie_word_embeddings", false},
          {"transformers_version", "5.0.0"},
          {"vocab_size", 300}};
}

std::string canonical(const ModelConfig& model) {
  Config config;
  config.model = model;
  return canonical_json(config);
}

}  // namespace

TEST_CASE("model_config: every value of a Mixtral arrives") {
  const ModelConfig m = read(mixtral());
  CHECK(m.hidden_size == 32);
  CHECK(m.num_hidden_layers == 3);
  CHECK(m.num_attention_heads == 4);
  CHECK(m.kv_heads() == 2);
  CHECK(m.head_size() == 8);
  CHECK(m.vocabulary() == 300);
  CHECK(m.max_position_embeddings == 64);
  CHECK(m.num_experts == 6);
  CHECK(m.num_experts_per_tok == 2);
  CHECK(m.moe_intermediate_size == 40);
  CHECK(m.norm_topk_prob);
  CHECK(m.qk_norm == "none");
  CHECK(m.rope_theta == 1e6);
  CHECK(m.rms_norm_eps == 1e-5);
  CHECK(m.initializer_range == 0.03);
  CHECK(m.router.aux_loss_kind == "hf");
  CHECK(m.router.aux_loss_coef == 0.02);
}

TEST_CASE("model_config: transformers 4 and 5 spell it differently and mean the same") {
  Json old = mixtral();
  old.erase("rope_parameters");
  old.erase("dtype");
  old["rope_theta"] = 1e6;
  old["rope_scaling"] = nullptr;
  old["torch_dtype"] = "bfloat16";
  CHECK(canonical(read(old)) == canonical(read(mixtral())));
}

TEST_CASE("model_config: what is written for a model of ours is read as that model, in every family") {
  ModelConfig base;
  base.vocab_size = 257;
  base.num_key_value_heads = 2;
  base.head_dim = 64;
  base.router.aux_loss_kind = "hf";
  base.router.aux_loss_coef = 0.01;
  ModelConfig mixtral = base, olmoe = base, qwen3_moe = base, llama = base, qwen3 = base;
  olmoe.qk_norm = "full", olmoe.norm_topk_prob = false, olmoe.head_dim.reset();
  qwen3_moe.qk_norm = "head", qwen3_moe.head_dim = 48, qwen3_moe.mlp_only_layers = {1};
  qwen3_moe.intermediate_size = 700;
  for (ModelConfig* dense : {&llama, &qwen3}) {
    dense->num_experts = 0, dense->intermediate_size = 300, dense->tie_word_embeddings = true;
    dense->router = {};
  }
  qwen3.qk_norm = "head";
  for (const ModelConfig& model : {mixtral, olmoe, qwen3_moe, llama, qwen3}) {
    const huggingface::Family family = huggingface::family_of(model);
    INFO(family.model_type);
    CHECK(canonical(read(Json::parse(huggingface::config_json(family, model, 256)))) == canonical(model));
  }
}

TEST_CASE("model_config: what the engine does not compute is refused by name") {
  const std::vector<std::pair<std::string, Json>> cases = {
      {"model_type is \"gpt2\" but must be one of mixtral", {{"model_type", "gpt2"}}},
      {"a RoPE scaling of type \"yarn\"", {{"rope_parameters", {{"rope_theta", 1e6}, {"rope_type", "yarn"}}}}},
      {"a RoPE scaling of type \"linear\"", {{"rope_scaling", {{"type", "linear"}, {"factor", 2.0}}}}},
      {"RoPE's factor is not known", {{"rope_scaling", {{"type", "linear"}, {"factor", 2.0}}}}},
      {"RoPE's partial_rotary_factor", {{"rope_parameters", {{"rope_theta", 1e6}, {"partial_rotary_factor", 0.5}}}}},
      {"rope_theta is missing", {{"rope_parameters", nullptr}}},
      {"sliding_window is set", {{"sliding_window", 4096}}},
      {"hidden_act is \"gelu\" but must be \"silu\"", {{"hidden_act", "gelu"}}},
      {"attention_bias is true", {{"attention_bias", true}}},
      {"attention_dropout is not 0", {{"attention_dropout", 0.1}}},
      {"quantization_config is set", {{"quantization_config", {{"bits", 4}}}}},
      {"layer_types has \"sliding_attention\"", {{"layer_types", {"full_attention", "sliding_attention"}}}},
      {"num_local_experts", {{"num_local_experts", nullptr}}},
      {"hidden_size is missing", {{"hidden_size", nullptr}}},
      {"num_attention_heads is not a number", {{"num_attention_heads", "four"}}},
      {"n_shared_experts is not known here", {{"n_shared_experts", 1}}},
      {"rms_norm_eps is missing", {{"rms_norm_eps", nullptr}}},
  };
  for (const auto& [phrase, change] : cases) {
    Json json = mixtral();
    for (const auto& [key, value] : change.items()) json[key] = value;
    const std::string message = refusal(json);
    CHECK_MESSAGE(message.find(phrase) != std::string::npos, message, " lacks ", phrase);
  }
}

TEST_CASE("model_config: all problems are named at once, and a window that is switched off is none") {
  Json json = mixtral();
  json["hidden_act"] = "relu";
  json["sliding_window"] = 128;
  json["temperature"] = 2;
  const std::string message = refusal(json);
  for (const char* part : {"hidden_act", "sliding_window", "temperature"})
    CHECK(message.find(part) != std::string::npos);
  json = mixtral();
  json["sliding_window"] = 128;
  json["use_sliding_window"] = false;
  CHECK(read(json).num_experts == 6);
}

TEST_CASE("model_config: a directory without a config, or with half of one, is refused") {
  const test::TemporaryDirectory place;
  CHECK_THROWS_AS(huggingface::read_model_config(place.path()), Error);
  const std::string text = mixtral().dump();
  std::ofstream(place.path() + "/config.json") << text.substr(0, text.size() / 2);
  CHECK_THROWS_AS(huggingface::read_model_config(place.path()), Error);
}
