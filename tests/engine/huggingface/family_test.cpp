#include "engine/huggingface/family.h"

#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

using namespace engine;
using huggingface::family_of;

namespace {

ModelConfig mixture(const std::string& qk_norm) {
  ModelConfig m;
  m.vocab_size = 257;
  m.qk_norm = qk_norm;
  return m;
}

nlohmann::json config_of(const ModelConfig& m) {
  return nlohmann::json::parse(huggingface::config_json(family_of(m), m, 256));
}

}  // namespace

TEST_CASE("family: the norm of queries and keys names the family of a mixture") {
  CHECK(family_of(mixture("none")).model_type == "mixtral");
  CHECK(family_of(mixture("full")).model_type == "olmoe");
  CHECK(family_of(mixture("head")).model_type == "qwen3_moe");
}

TEST_CASE("family: a model without experts is llama or qwen3") {
  ModelConfig m = mixture("none");
  m.num_experts = 0;
  CHECK(family_of(m).model_type == "llama");
  m.qk_norm = "head";
  CHECK(family_of(m).model_type == "qwen3");
  m.qk_norm = "full";
  CHECK_FALSE(family_of(m));
}

TEST_CASE("family: what no family computes is named") {
  const std::vector<std::pair<std::string, void (*)(ModelConfig&)>> cases = {
      {"rope_interleave", [](ModelConfig& m) { m.rope_interleave = true; }},
      {"attention_bias", [](ModelConfig& m) { m.attention_bias = true; }},
      {"scoring_func", [](ModelConfig& m) { m.scoring_func = "sigmoid"; }},
      {"n_group", [](ModelConfig& m) { m.n_group = 2; }},
      {"routed_scaling_factor", [](ModelConfig& m) { m.routed_scaling_factor = 2.5; }},
      {"n_shared_experts", [](ModelConfig& m) { m.n_shared_experts = 1; }},
      {"force", [](ModelConfig& m) { m.router.force = "uniform"; }},
      {"bias_update_rate", [](ModelConfig& m) { m.router.bias_update_rate = 0.001; }},
      {"dense layers", [](ModelConfig& m) { m.first_k_dense_replace = 1; }},
      {"norm_topk_prob", [](ModelConfig& m) { m.norm_topk_prob = false; }},
  };
  for (const auto& [name, change] : cases) {
    CAPTURE(name);
    ModelConfig m = mixture("none");
    change(m);
    const huggingface::Family family = family_of(m);
    CHECK_FALSE(family);
    REQUIRE(family.objections.size() == 1);
    CHECK(family.objections[0].find(name) != std::string::npos);
  }
}

TEST_CASE("family: config.json of Mixtral has Mixtral's keys") {
  ModelConfig m = mixture("none");
  m.moe_intermediate_size = 1024;
  m.rope_theta = 1e6;
  const nlohmann::json json = config_of(m);
  CHECK(json["architectures"][0] == "MixtralForCausalLM");
  CHECK(json["num_local_experts"] == 8);
  CHECK(json["intermediate_size"] == 1024);
  CHECK(json["rope_theta"] == 1e6);
  CHECK(json["rope_parameters"]["rope_theta"] == 1e6);
  CHECK(json["eos_token_id"] == 256);
  CHECK_FALSE(json.contains("num_experts"));
}

TEST_CASE("family: a vocabulary without a token for the end of a document has none in its files") {
  const ModelConfig m = mixture("none");
  CHECK(nlohmann::json::parse(huggingface::config_json(family_of(m), m, {}))["eos_token_id"].is_null());
  CHECK(nlohmann::json::parse(huggingface::generation_config_json({}))["eos_token_id"].is_null());
  CHECK(nlohmann::json::parse(huggingface::generation_config_json(256))["eos_token_id"] == 256);
}

TEST_CASE("family: config.json of Qwen3-MoE lists the dense layers however they were chosen") {
  ModelConfig m = mixture("head");
  m.num_hidden_layers = 6;
  m.first_k_dense_replace = 1;
  m.decoder_sparse_step = 2;
  m.mlp_only_layers = {3};
  m.intermediate_size = 700;
  const nlohmann::json json = config_of(m);
  CHECK(json["mlp_only_layers"] == nlohmann::json({0, 2, 3, 4}));
  CHECK(json["decoder_sparse_step"] == 1);
  CHECK(json["intermediate_size"] == 700);
  CHECK(json["moe_intermediate_size"] == 256);
  CHECK(json["num_experts"] == 8);
  CHECK(json["norm_topk_prob"] == true);
}

TEST_CASE("family: only Mixtral's files have names of their own") {
  const huggingface::Family mixtral = family_of(mixture("none")), olmoe = family_of(mixture("full"));
  const std::string expert = "model.layers.1.mlp.experts.7.";
  CHECK(file_name(olmoe, expert + "up_proj.weight") == expert + "up_proj.weight");
  const std::string own = "model.layers.1.block_sparse_moe.experts.7.";
  CHECK(file_name(mixtral, expert + "gate_proj.weight") == own + "w1.weight");
  CHECK(file_name(mixtral, expert + "up_proj.weight") == own + "w3.weight");
  CHECK(file_name(mixtral, expert + "down_proj.weight") == own + "w2.weight");
  CHECK(file_name(mixtral, "model.layers.1.mlp.gate.weight") == "model.layers.1.block_sparse_moe.gate.weight");
  CHECK(file_name(mixtral, "model.layers.1.self_attn.q_proj.weight") == "model.layers.1.self_attn.q_proj.weight");
}
