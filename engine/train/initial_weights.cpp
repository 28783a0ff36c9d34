#include "engine/train/initial_weights.h"

#include <cmath>
#include <filesystem>
#include <vector>

#include "engine/config/config_difference.h"
#include "engine/core/error.h"
#include "engine/core/rng.h"
#include "engine/core/transfer.h"
#include "engine/train/loaded_model.h"

namespace engine::train {
namespace {

// What decides which function of the weights a model computes, with every default written out.
ModelConfig computed(ModelConfig m) {
  std::vector<int64_t> dense;
  for (int64_t layer = 0; layer < m.num_hidden_layers; ++layer) {
    if (!m.is_moe_layer(layer)) dense.push_back(layer);
  }
  const bool has_dense = !dense.empty(), has_experts = m.num_moe_layers() > 0;
  m.num_key_value_heads = m.kv_heads();
  m.head_dim = m.head_size();
  m.intermediate_size = has_dense ? std::optional(m.dense_intermediate()) : std::nullopt;
  m.mlp_only_layers = has_experts ? dense : std::vector<int64_t>();
  m.decoder_sparse_step = 1, m.first_k_dense_replace = 0;
  const ModelConfig plain;
  m.initializer_range = plain.initializer_range;
  m.max_position_embeddings = plain.max_position_embeddings;
  const RouterConfig router = m.router;
  m.router = plain.router;
  m.router.force = router.force;
  m.router.bias_update_rate = router.bias_update_rate > 0 ? 1 : 0;  // whether there are biases
  if (has_experts) return m;
  m.num_experts = 0;
  m.num_experts_per_tok = plain.num_experts_per_tok;
  m.moe_intermediate_size = plain.moe_intermediate_size;
  m.norm_topk_prob = plain.norm_topk_prob;
  return m;
}

// The dense model whose FFN the experts of m are copies of.
ModelConfig dense_origin(ModelConfig m) {
  m.intermediate_size = m.moe_intermediate_size;
  m.num_experts = 0;
  m.n_group = 1, m.topk_group = 1;
  m.scoring_func = "softmax";
  m.routed_scaling_factor = 1;
  m.router = {};
  return m;
}

void check_same_model(const std::string& path, const ModelConfig& theirs, const ModelConfig& ours) {
  Config there, here;
  there.model = computed(theirs), here.model = computed(ours);
  std::string list;
  for (const std::string& line : config_differences(there, here)) list += (list.empty() ? "" : "; ") + line;
  if (list.empty()) return;
  throw Error(ExitCode::checkpoint,
              str("train.init_from ", path, " is another model than this config's: ", list, "; change the config"));
}

// "model.layers.3.mlp.experts.5.up_proj.weight" -> "model.layers.3.mlp.up_proj.weight"
std::string without_expert(const std::string& name) {
  const std::string part = ".experts.";
  const size_t begin = name.find(part);
  return name.substr(0, begin) + name.substr(name.find('.', begin + part.size()));
}

void copy(const nn::Parameter& from, nn::Parameter& to) {
  ENSURE(from.spec.dims == to.spec.dims, from.spec.name, " and ", to.spec.name, " differ in shape");
  engine::copy(to.weight, from.weight);
}

void copy_into_expert(const nn::Parameter& from, const Config& config, nn::Parameter& to) {
  copy(from, to);
  HostEdit edit(to.weight);
  float* weight = edit.f32();
  if (to.spec.name.ends_with(".down_proj.weight") && config.train.upcycle.down_scale != 1) {
    for (int64_t i = 0; i < to.elements; ++i) weight[i] *= static_cast<float>(config.train.upcycle.down_scale);
  }
  if (config.train.upcycle.noise == 0) return edit.put();
  double squares = 0;
  for (int64_t i = 0; i < to.elements; ++i) squares += static_cast<double>(weight[i]) * static_cast<double>(weight[i]);
  const double deviation = config.train.upcycle.noise * std::sqrt(squares / static_cast<double>(to.elements));
  std::vector<float> noise(static_cast<size_t>(to.elements));
  fill_normal(noise.data(), 0, to.elements, derive_key(static_cast<uint64_t>(config.seed), "upcycle/" + to.spec.name),
              static_cast<float>(deviation));
  for (int64_t i = 0; i < to.elements; ++i) weight[i] += noise[static_cast<size_t>(i)];
  edit.put();
}

void copy_expert_biases(model::Model& from, model::Model& to) {
  for (size_t i = 0; i < to.moe_layers().size(); ++i) {
    if (to.moe_layers()[i]->expert_bias()) {
      to.moe_layers()[i]->expert_bias()->values() = from.moe_layers()[i]->expert_bias()->values();
    }
  }
}

}  // namespace

std::string load_initial_weights(Trainer& trainer) {
  const Config& config = trainer.config();
  const std::string path = (std::filesystem::path(config.directory) / *config.train.init_from).string();
  LoadedModel source(path);
  const bool upcycles = source.config().model.num_moe_layers() == 0 && config.model.num_moe_layers() > 0;
  if (upcycles &&
      (config.model.n_shared_experts > 0 || config.model.num_moe_layers() < config.model.num_hidden_layers)) {
    throw Error(ExitCode::checkpoint, str("train.init_from ", path,
                                          " is a dense model; it becomes a mixture only where "
                                          "every layer has experts and none is shared"));
  }
  check_same_model(path, source.config().model, upcycles ? dense_origin(config.model) : config.model);
  for (nn::Parameter& parameter : trainer.store().all()) {
    if (upcycles && parameter.spec.name.ends_with(".mlp.gate.weight")) continue;  // the router is drawn
    const bool copies = upcycles && parameter.spec.is_expert;
    const nn::Parameter* from = source.store().find(copies ? without_expert(parameter.spec.name) : parameter.spec.name);
    ENSURE(from != nullptr, path, " has no ", parameter.spec.name);
    if (copies) {
      copy_into_expert(*from, config, parameter);
    } else {
      copy(*from, parameter);
    }
  }
  if (!upcycles) copy_expert_biases(source.model(), trainer.model());
  trainer.store().weights_changed();
  return str("weights of ", source.path(), upcycles ? ", its FFN copied into every expert" : "");
}

}  // namespace engine::train
