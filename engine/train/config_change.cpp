#include "engine/train/config_change.h"

#include <algorithm>
#include <map>

#include "engine/config/canonical.h"
#include "engine/config/config_difference.h"
#include "engine/core/error.h"

namespace engine::train {
namespace {

using enum ChangeKind;

// Every key of a config, so that a new one has to be thought about.
const std::map<std::string, ChangeKind>& kinds() {
  static const std::map<std::string, ChangeKind> map{
      {"$schema", free},
      {"version", identity},
      {"name", free},
      {"seed", identity},
      {"model.hidden_size", identity},
      {"model.num_hidden_layers", identity},
      {"model.num_attention_heads", identity},
      {"model.num_key_value_heads", identity},
      {"model.head_dim", identity},
      {"model.vocab_size", identity},
      {"model.max_position_embeddings", identity},
      {"model.rope_theta", identity},
      {"model.rope_interleave", identity},
      {"model.rms_norm_eps", identity},
      {"model.tie_word_embeddings", identity},
      {"model.attention_bias", identity},
      {"model.qk_norm", identity},
      {"model.initializer_range", identity},
      {"model.num_experts", identity},
      {"model.num_experts_per_tok", identity},
      {"model.moe_intermediate_size", identity},
      {"model.intermediate_size", identity},
      {"model.norm_topk_prob", identity},
      {"model.decoder_sparse_step", identity},
      {"model.mlp_only_layers", identity},
      {"model.first_k_dense_replace", identity},
      {"model.n_group", identity},
      {"model.topk_group", identity},
      {"model.scoring_func", identity},
      {"model.routed_scaling_factor", identity},
      {"model.n_shared_experts", identity},
      {"model.shared_expert_gate", identity},
      {"model.router.aux_loss_coef", trajectory},
      {"model.router.aux_loss_scope", identity},
      {"model.router.aux_loss_kind", identity},
      {"model.router.z_loss_coef", trajectory},
      {"model.router.bias_update_rate", trajectory},
      {"model.router.jitter", trajectory},
      {"model.router.capacity_factor", trajectory},
      {"model.router.drop_policy", trajectory},
      {"model.router.force", trajectory},
      {"tokenizer.kind", identity},
      {"data.sources[].name", identity},
      {"data.sources[].files", free},
      {"data.sources[].exclude", free},
      {"data.sources[].weight", identity},
      {"data.sources[].max_bytes", free},
      {"data.sources[].strip", free},
      {"data.ood[].name", free},
      {"data.ood[].files", free},
      {"data.ood[].exclude", free},
      {"data.ood[].weight", free},
      {"data.ood[].max_bytes", free},
      {"data.ood[].strip", free},
      {"data.held_out.fraction", free},
      {"data.held_out.split", free},
      {"data.held_out.ngram", free},
      {"data.held_out.max_overlap", free},
      {"data.filters.max_digit_fraction", free},
      {"data.filters.min_bytes", free},
      {"data.filters.dedup", free},
      {"data.filters.control_characters", free},
      {"data.filters.max_line_share", free},
      {"data.filters.min_compression", free},
      {"data.filters.max_compression", free},
      {"data.filters.unlike_source", free},
      {"data.filters.containing", free},
      {"data.on_bad_record", free},
      {"data.cache_dir", free},
      {"train.seq_len", identity},
      {"train.batch_tokens", identity},
      {"train.micro_batch", free},
      {"train.granules", identity},
      {"train.document_mask", identity},
      {"train.precision", trajectory},
      {"train.on_spike", trajectory},
      {"train.spike_z", trajectory},
      {"train.stop.steps", trajectory},
      {"train.stop.tokens", trajectory},
      {"train.stop.time", free},
      {"train.init_from", free},
      {"train.upcycle.noise", free},
      {"train.upcycle.down_scale", free},
      {"optim.lr", trajectory},
      {"optim.min_lr", trajectory},
      {"optim.warmup", trajectory},
      {"optim.schedule", trajectory},
      {"optim.decay_fraction", trajectory},
      {"optim.weight_decay", trajectory},
      {"optim.betas", trajectory},
      {"optim.eps", trajectory},
      {"optim.grad_clip", trajectory},
      {"optim.groups[].pattern", trajectory},
      {"optim.groups[].lr_scale", trajectory},
      {"optim.groups[].weight_decay", trajectory},
      {"parallel.ep_size", free},
      {"parallel.expert_placement", free},
      {"parallel.overlap_chunks", free},
      {"parallel.recv_headroom", free},
      {"parallel.recv_memory", free},
      {"eval.every", free},
      {"eval.max_tokens", free},
      {"eval.baselines", free},
      {"eval.samples", free},
      {"checkpoint.every", free},
      {"checkpoint.keep_last", free},
      {"log.every", free},
      {"log.tensorboard", free},
      {"log.prometheus", free},
      {"log.trace_steps", free},
      {"log.expert_trace_steps", free},
  };
  return map;
}

// "data.sources[0].files[1]" -> "data.sources[].files": numbers go, and so does what follows a list of plain values.
std::string described(const std::string& key) {
  std::string name;
  for (size_t at = 0; at < key.size(); ++at) {
    name += key[at];
    if (key[at] == '[') at = key.find(']', at) - 1;
  }
  return name.ends_with("[]") ? name.substr(0, name.size() - 2) : name;
}

bool lies_below(const std::string& key, const std::string& name) {
  return key == name || (key.starts_with(name) && (key[name.size()] == '.' || key[name.size()] == '['));
}

}  // namespace

ChangeKind change_kind(const std::string& key) {
  const auto found = kinds().find(key);
  ENSURE(found != kinds().end(), "engine/train/config_change.cpp does not say whether ", key,
         " may differ when a run is resumed");
  return found->second;
}

std::vector<ConfigChange> config_changes(const Config& saved, const Config& ours) {
  std::vector<ConfigChange> changes;
  for (const std::string& line : config_differences(saved, ours)) {
    const std::string key = line.substr(0, line.find(": "));
    changes.push_back({.key = key, .text = line, .kind = change_kind(described(key))});
  }
  return changes;
}

void check_allowed_names(const std::vector<std::string>& allowed) {
  const std::vector<KeyDescription> keys = describe_keys();
  for (const std::string& name : allowed) {
    const bool known = std::any_of(keys.begin(), keys.end(),
                                   [&](const KeyDescription& key) { return lies_below(key.key, described(name)); });
    if (known) continue;
    throw Error(ExitCode::usage, str("--allow-change ", name, ": no key of a config is called so; give one such as ",
                                     "data, model.rope_theta or train.seq_len"));
  }
}

bool is_allowed(const std::string& key, const std::vector<std::string>& allowed) {
  return std::any_of(allowed.begin(), allowed.end(), [&](const std::string& name) {
    return lies_below(key, name) || lies_below(described(key), name);
  });
}

void check_changes(const std::vector<ConfigChange>& changes, const std::vector<std::string>& allowed) {
  std::string list, first;
  for (const ConfigChange& change : changes) {
    if (change.kind != ChangeKind::identity || is_allowed(change.key, allowed)) continue;
    if (first.empty()) first = change.key;
    list += (list.empty() ? "" : "; ") + change.text;
  }
  if (list.empty()) return;
  throw Error(ExitCode::checkpoint,
              str("the config differs from the checkpoint's in what may not change: ", list,
                  "; use the run's own config, or another --run-dir, or --allow-change ", first, " if that is meant"));
}

}  // namespace engine::train
