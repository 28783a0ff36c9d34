#include "engine/huggingface/family.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

namespace engine::huggingface {
namespace {

using Json = nlohmann::ordered_json;

// What no family can say, whatever the norms.
std::vector<std::string> objections_to(const ModelConfig& m) {
  std::vector<std::string> list;
  auto object = [&list](bool holds, const char* what) {
    if (holds) list.emplace_back(what);
  };
  object(m.rope_interleave, "model.rope_interleave true");
  object(m.attention_bias, "model.attention_bias true (there the output projection has a bias too)");
  if (m.num_moe_layers() == 0) {
    object(m.qk_norm == "full", "model.qk_norm \"full\" without experts");
    return list;
  }
  const bool has_dense = m.num_moe_layers() < m.num_hidden_layers;
  const bool own_head_size = m.head_size() * m.num_attention_heads != m.hidden_size;
  object(m.scoring_func != "softmax", "model.scoring_func \"sigmoid\"");
  object(m.n_group > 1, "model.n_group above 1");
  object(m.routed_scaling_factor != 1, "model.routed_scaling_factor other than 1");
  object(m.n_shared_experts > 0, "model.n_shared_experts above 0");
  object(m.router.force != "none", "model.router.force \"uniform\"");
  object(m.router.bias_update_rate > 0, "model.router.bias_update_rate above 0");
  object(m.qk_norm != "head" && has_dense, "dense layers among those with experts, without model.qk_norm \"head\"");
  object(m.qk_norm == "none" && !m.norm_topk_prob, "model.norm_topk_prob false with model.qk_norm \"none\"");
  object(m.qk_norm == "full" && own_head_size, "a model.head_dim of its own with model.qk_norm \"full\"");
  return list;
}

Json id_or_null(std::optional<int64_t> token) {
  return token ? Json(*token) : Json();
}

std::vector<int64_t> dense_layers(const ModelConfig& m) {
  std::vector<int64_t> layers;
  for (int64_t layer = 0; layer < m.num_hidden_layers; ++layer) {
    if (!m.is_moe_layer(layer)) layers.push_back(layer);
  }
  return layers;
}

void add_experts(const Family& family, const ModelConfig& m, Json& json) {
  const bool is_mixtral = family.model_type == "mixtral";
  json[is_mixtral ? "num_local_experts" : "num_experts"] = m.num_experts;
  json["num_experts_per_tok"] = m.num_experts_per_tok;
  json["output_router_logits"] = false;
  json["router_aux_loss_coef"] = m.router.aux_loss_coef;
  if (is_mixtral) json["router_jitter_noise"] = m.router.jitter;
  if (!is_mixtral) json["norm_topk_prob"] = m.norm_topk_prob;
  if (family.model_type != "qwen3_moe") return;
  json["moe_intermediate_size"] = m.moe_intermediate_size;
  json["decoder_sparse_step"] = 1;
  json["mlp_only_layers"] = dense_layers(m);
}

void replace(std::string& text, const std::string& part, const std::string& with) {
  if (const size_t at = text.find(part); at != std::string::npos) text.replace(at, part.size(), with);
}

}  // namespace

Family family_of(const ModelConfig& model) {
  Family family;
  family.objections = objections_to(model);
  if (!family.objections.empty()) return family;
  if (model.num_moe_layers() == 0) {
    const bool is_qwen = model.qk_norm == "head";
    family.model_type = is_qwen ? "qwen3" : "llama";
    family.architecture = is_qwen ? "Qwen3ForCausalLM" : "LlamaForCausalLM";
  } else if (model.qk_norm == "head") {
    family.model_type = "qwen3_moe";
    family.architecture = "Qwen3MoeForCausalLM";
  } else {
    const bool is_olmoe = model.qk_norm == "full";
    family.model_type = is_olmoe ? "olmoe" : "mixtral";
    family.architecture = is_olmoe ? "OlmoeForCausalLM" : "MixtralForCausalLM";
  }
  return family;
}

std::string config_json(const Family& family, const ModelConfig& m, std::optional<int64_t> end_token, DType stored) {
  const bool widths_differ = family.model_type == "qwen3_moe" || m.num_moe_layers() == 0;
  Json json;
  json["architectures"] = {family.architecture};
  json["model_type"] = family.model_type;
  json["vocab_size"] = m.vocabulary();
  json["hidden_size"] = m.hidden_size;
  json["intermediate_size"] = widths_differ ? m.dense_intermediate() : m.moe_intermediate_size;
  json["num_hidden_layers"] = m.num_hidden_layers;
  json["num_attention_heads"] = m.num_attention_heads;
  json["num_key_value_heads"] = m.kv_heads();
  if (family.model_type != "olmoe") json["head_dim"] = m.head_size();
  json["hidden_act"] = "silu";
  json["max_position_embeddings"] = m.max_position_embeddings;
  json["initializer_range"] = m.initializer_range;
  json["rms_norm_eps"] = m.rms_norm_eps;
  json["rope_theta"] = m.rope_theta;  // transformers 4; the next line is 5's
  json["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", m.rope_theta}};
  json["tie_word_embeddings"] = m.tie_word_embeddings;
  json["attention_bias"] = false;
  json["attention_dropout"] = 0.0;
  if (m.num_moe_layers() > 0) add_experts(family, m, json);
  json["bos_token_id"] = nullptr;
  json["eos_token_id"] = id_or_null(end_token);
  json["pad_token_id"] = nullptr;
  const char* dtype = stored == DType::bf16 ? "bfloat16" : "float32";
  json["torch_dtype"] = dtype;
  json["dtype"] = dtype;
  return json.dump(2) + "\n";
}

std::string generation_config_json(std::optional<int64_t> end_token) {
  return Json{{"do_sample", true}, {"eos_token_id", id_or_null(end_token)}}.dump(2) + "\n";
}

std::string file_name(const Family& family, const std::string& name) {
  if (family.model_type != "mixtral") return name;
  std::string own = name;
  replace(own, ".mlp.", ".block_sparse_moe.");
  replace(own, ".gate_proj.", ".w1.");
  replace(own, ".up_proj.", ".w3.");
  replace(own, ".down_proj.", ".w2.");
  return own;
}

}  // namespace engine::huggingface
