#include "engine/huggingface/model_config.h"

#include <algorithm>
#include <array>
#include <set>
#include <string_view>

#include "engine/checkpoint/file_system.h"
#include "engine/config/json_reader.h"
#include "engine/core/error.h"
#include "engine/huggingface/family.h"

namespace engine::huggingface {
namespace {

using Type = JsonValue::Type;

// Keys that change nothing in what a forward pass computes.
constexpr std::string_view kWithoutEffect[] = {
    "_name_or_path",
    "architectures",
    "bos_token_id",
    "chunk_size_feed_forward",
    "dtype",
    "eos_token_id",
    "head_dim",
    "id2label",
    "initializer_range",
    "is_encoder_decoder",
    "label2id",
    "max_window_layers",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "pad_token_id",
    "pretraining_tp",
    "problem_type",
    "return_dict",
    "router_aux_loss_coef",
    "router_jitter_noise",
    "torch_dtype",
    "transformers_version",
    "use_cache",
    "tie_word_embeddings",
    "model_type",
    "unk_token_id",
    "_attn_implementation_autoset",
};

constexpr std::array<std::string_view, 5> kFamilies = {"mixtral", "olmoe", "qwen3_moe", "llama", "qwen3"};

// The members of config.json; remembers which were asked for and what is wrong.
class Keys {
 public:
  explicit Keys(const JsonValue& json) : json_(json) {}

  // The value under the first of the names that is there and not null.
  const JsonValue* find(std::initializer_list<std::string_view> names) {
    const JsonValue* found = nullptr;
    for (std::string_view name : names) {
      asked_.insert(std::string(name));
      const JsonValue* value = json_.find(name);
      if (found == nullptr && value != nullptr && value->type != Type::null) found = value;
    }
    return found;
  }
  template <class... Parts>
  void object(const Parts&... parts) {
    problems_.push_back(str(parts...));
  }

  std::optional<int64_t> integer_if_any(std::string_view name) {
    const JsonValue* value = find({name});
    if (value == nullptr) return {};
    if (value->type != Type::integer || value->integer < 0 || value->integer > int64_t{1} << 40) {
      object(name, " is not a number of something");
      return {};
    }
    return value->integer;
  }
  int64_t integer(std::string_view name, std::string_view other = "") {
    const std::optional<int64_t> value = integer_if_any(other.empty() || json_.find(name) != nullptr ? name : other);
    if (!value) object(name, other.empty() ? "" : " or ", other, " is missing");
    find({name, other});
    return value.value_or(1);
  }
  double number(std::string_view name, std::optional<double> fallback) {
    const JsonValue* value = find({name});
    if (value != nullptr && value->is_number()) return value->number;
    if (value != nullptr || !fallback) object(name, value == nullptr ? " is missing" : " is not a number");
    return fallback.value_or(1);
  }
  bool boolean(std::string_view name, std::optional<bool> fallback) {
    const JsonValue* value = find({name});
    if (value != nullptr && value->type == Type::boolean) return value->boolean;
    if (value != nullptr || !fallback) object(name, value == nullptr ? " is missing" : " is neither true nor false");
    return fallback.value_or(false);
  }

  // What is not null and was never asked for.
  void refuse_the_rest() {
    for (const JsonValue::Member& member : json_.members) {
      if (asked_.contains(member.key) || member.value.type == Type::null) continue;
      if (std::find(std::begin(kWithoutEffect), std::end(kWithoutEffect), member.key) != std::end(kWithoutEffect))
        continue;
      object(member.key, " is not known here");
    }
  }
  const std::vector<std::string>& problems() const { return problems_; }

 private:
  const JsonValue& json_;
  std::set<std::string> asked_;
  std::vector<std::string> problems_;
};

void read_rope(Keys& keys, ModelConfig& model) {
  const JsonValue* parameters = keys.find({"rope_parameters"});
  const JsonValue* theta = keys.find({"rope_theta"});
  for (const JsonValue* rope : {parameters, keys.find({"rope_scaling"})}) {
    if (rope == nullptr) continue;
    for (const JsonValue::Member& member : rope->members) {
      const JsonValue& value = member.value;
      if (member.key == "rope_theta") {
        theta = &value;
      } else if (member.key == "rope_type" || member.key == "type") {
        if (value.string != "default")
          keys.object("a RoPE scaling of type \"", value.string, "\" is not computed here");
      } else if (member.key != "partial_rotary_factor" || value.number != 1) {
        keys.object("RoPE's ", member.key, " is not known here");
      }
    }
  }
  if (theta == nullptr || !theta->is_number()) {
    keys.object("rope_theta is missing");
  } else {
    model.rope_theta = theta->number;
  }
}

// What has to have the one value that the engine computes.
void check_fixed(Keys& keys) {
  const JsonValue* activation = keys.find({"hidden_act"});
  if (activation == nullptr || activation->string != "silu") {
    keys.object("hidden_act is \"", activation == nullptr ? "" : activation->string, "\" but must be \"silu\"");
  }
  for (const char* name : {"attention_bias", "mlp_bias"}) {
    if (keys.boolean(name, false)) keys.object(name, " is true, and the biases it means are not computed here");
  }
  if (keys.number("attention_dropout", 0) != 0) keys.object("attention_dropout is not 0, and there is no dropout here");
  for (const char* name : {"clip_qkv", "quantization_config"}) {
    if (keys.find({name}) != nullptr) keys.object(name, " is set, which is not computed here");
  }
  const bool window_off = !keys.boolean("use_sliding_window", true);
  if (keys.find({"sliding_window"}) != nullptr && !window_off) {
    keys.object("sliding_window is set, and there is no window of attention here");
  }
  if (const JsonValue* layers = keys.find({"layer_types"})) {
    for (const JsonValue& layer : layers->items) {
      if (layer.string == "full_attention") continue;
      keys.object("layer_types has \"", layer.string, "\" but must be \"full_attention\" throughout");
      break;
    }
  }
}

void read_experts(Keys& keys, const std::string& family, ModelConfig& model) {
  model.num_experts = keys.integer("num_experts", "num_local_experts");
  model.num_experts_per_tok = keys.integer("num_experts_per_tok");
  model.moe_intermediate_size = keys.integer(family == "qwen3_moe" ? "moe_intermediate_size" : "intermediate_size");
  model.norm_topk_prob = family == "mixtral" || keys.boolean("norm_topk_prob", {});
  model.router.aux_loss_kind = "hf";
  model.router.aux_loss_coef = keys.number("router_aux_loss_coef", 0.0);
  model.router.jitter = keys.number("router_jitter_noise", 0.0);
  if (family != "qwen3_moe") return;
  model.intermediate_size = keys.integer_if_any("intermediate_size");
  model.decoder_sparse_step = keys.integer_if_any("decoder_sparse_step").value_or(1);
  if (const JsonValue* layers = keys.find({"mlp_only_layers"})) {
    for (const JsonValue& layer : layers->items) model.mlp_only_layers.push_back(layer.integer);
  }
}

ModelConfig read_model(Keys& keys, const std::string& family) {
  ModelConfig model;
  model.hidden_size = keys.integer("hidden_size");
  model.num_hidden_layers = keys.integer("num_hidden_layers");
  model.num_attention_heads = keys.integer("num_attention_heads");
  model.num_key_value_heads = keys.integer_if_any("num_key_value_heads");
  model.head_dim = keys.integer_if_any("head_dim");
  model.vocab_size = keys.integer("vocab_size");
  model.max_position_embeddings = keys.integer("max_position_embeddings");
  model.rms_norm_eps = keys.number("rms_norm_eps", {});
  model.initializer_range = keys.number("initializer_range", 0.02);
  model.tie_word_embeddings = keys.boolean("tie_word_embeddings", false);
  model.qk_norm = family == "olmoe" ? "full" : family.starts_with("qwen3") ? "head" : "none";
  read_rope(keys, model);
  check_fixed(keys);
  if (family == "llama" || family == "qwen3") {
    model.num_experts = 0;
    model.intermediate_size = keys.integer("intermediate_size");
  } else {
    read_experts(keys, family, model);
  }
  keys.refuse_the_rest();
  return model;
}

}  // namespace

ModelConfig read_model_config(const std::string& directory) {
  const std::string file = directory + "/config.json";
  const std::string text = checkpoint::ExistingFile(directory, "config.json").read_all(1 << 20);
  JsonValue json;
  try {
    json = read_json(text, {}, ExitCode::checkpoint);
  } catch (const JsonError& error) {
    throw Error(ExitCode::checkpoint, str(file, ":", error.position().line, ": ", error.what()));
  }
  const JsonValue* type = json.find("model_type");
  const std::string family = type == nullptr ? "" : type->string;
  if (std::find(kFamilies.begin(), kFamilies.end(), family) == kFamilies.end()) {
    throw Error(ExitCode::checkpoint, str(file, ": model_type is \"", family,
                                          "\" but must be one of mixtral, olmoe, qwen3_moe, llama, qwen3"));
  }
  Keys keys(json);
  const ModelConfig model = read_model(keys, family);
  std::string list;
  for (const std::string& problem : keys.problems()) list += (list.empty() ? "" : "; ") + problem;
  if (list.empty()) {
    const Family ours = family_of(model);
    for (const std::string& objection : ours.objections) list += (list.empty() ? "" : "; ") + objection;
    if (list.empty() && ours.model_type != family) list = "the model is a " + ours.model_type + " by its values";
  }
  if (!list.empty()) throw Error(ExitCode::checkpoint, str(file, " asks for what cannot be computed here: ", list));
  return model;
}

}  // namespace engine::huggingface
