#include "engine/train/loaded_model.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>

#include "engine/checkpoint/tags.h"
#include "engine/config/reader.h"
#include "engine/core/error.h"
#include "engine/data/tokenizer.h"
#include "engine/huggingface/model_config.h"
#include "engine/huggingface/weight_files.h"

namespace engine::train {
namespace {

std::string bias_name(const moe::MoeLayer& layer) {
  return "model.layers." + std::to_string(layer.layer()) + ".mlp.gate.e_score_correction_bias";
}
std::string counts_name(const moe::MoeLayer& layer) {
  return "model.layers." + std::to_string(layer.layer()) + ".tokens_per_expert";
}

Config config_of(const checkpoint::TrainingState& state) {
  Config config = parse_config(state.config, "the checkpoint's config", {});
  config.directory = state.config_directory;
  return config;
}

}  // namespace

std::string resolve_checkpoint(const std::string& run_or_checkpoint) {
  namespace fs = std::filesystem;
  std::error_code error;
  if (fs::exists(run_or_checkpoint + "/COMMIT", error)) return run_or_checkpoint;
  const size_t at = run_or_checkpoint.rfind('@');
  if (at != std::string::npos && !fs::exists(run_or_checkpoint, error)) {
    const std::string checkpoints = run_or_checkpoint.substr(0, at) + "/checkpoints";
    return checkpoints + "/" + checkpoint::step_of_tag(checkpoints, run_or_checkpoint.substr(at + 1));
  }
  if (!fs::is_directory(run_or_checkpoint, error)) {
    throw Error(ExitCode::checkpoint,
                str(run_or_checkpoint, " is not a directory; give a run directory or a checkpoint in it"));
  }
  std::vector<std::string> problems;
  const std::string path = checkpoint::newest_whole_checkpoint(run_or_checkpoint + "/checkpoints", problems);
  if (!path.empty()) return path;
  std::string list;
  for (const std::string& problem : problems) list += "; " + problem;
  if (list.empty())
    list = ", and no Hugging Face model (config.json, model.safetensors) either; give a directory with one";
  throw Error(ExitCode::checkpoint, str(run_or_checkpoint, " holds no whole checkpoint", list));
}

bool is_huggingface_directory(const std::string& path) {
  const auto has = [&path](const char* name) {
    std::error_code error;
    return std::filesystem::exists(path + "/" + name, error);
  };
  // a checkpoint of ours has such files too, and a damaged one is not to pass for something else
  return has("config.json") && (has("model.safetensors") || has("model.safetensors.index.json")) && !has("COMMIT") &&
         !has("state.json") && !has("manifest.json");
}

LoadedModel::LoadedModel(const std::string& path, Device device)
    : groups_(comm::make_parallel_groups(comm::make_self_group(), 1)), device_(device) {
  if (is_huggingface_directory(path)) {
    path_ = path;
    load_huggingface();
  } else {
    path_ = resolve_checkpoint(path);
    load_checkpoint();
  }
}

void LoadedModel::build() {
  const bool narrow = device_ == Device::cuda && config_.train.precision == "bf16";
  store_ = nn::ParameterStore(device_, narrow ? DType::bf16 : DType::f32);
  model_ = std::make_unique<model::Model>(config_, store_, *groups_.ep);
  store_.commit(1, false);
}

void LoadedModel::load_checkpoint() {
  const checkpoint::Reader reader(path_);
  state_ = reader.state();
  config_ = config_of(state_);
  build();
  reader.load_weights(store_);
  take_balance_state(state_, *model_);
}

void LoadedModel::load_huggingface() {
  config_.model = huggingface::read_model_config(path_);
  config_.train.seq_len = std::min(config_.train.seq_len, config_.model.max_position_embeddings);
  const huggingface::WeightFiles files(path_);
  build();
  files.load(huggingface::family_of(config_.model), store_);
}

void note_byte_reading(const ModelConfig& model) {
  if (model.vocabulary() == data::kByteVocabulary || model.vocabulary() == data::kEndOfDocument) return;
  std::fprintf(stderr,
               "note: the model has a vocabulary of %lld tokens; text is read as bytes, which are its first 256\n",
               static_cast<long long>(model.vocabulary()));
}

void put_balance_state(model::Model& model, checkpoint::TrainingState& state) {
  for (moe::MoeLayer* layer : model.moe_layers()) {
    if (layer->expert_bias()) {
      const std::vector<float>& bias = layer->expert_bias()->values();
      state.arrays[bias_name(*layer)].assign(bias.begin(), bias.end());
    }
    const std::vector<int64_t>& counts = layer->previous_counts();
    if (!counts.empty()) state.arrays[counts_name(*layer)].assign(counts.begin(), counts.end());
  }
}

void take_balance_state(const checkpoint::TrainingState& state, model::Model& model) {
  for (moe::MoeLayer* layer : model.moe_layers()) {
    if (layer->expert_bias()) {
      const auto found = state.arrays.find(bias_name(*layer));
      std::vector<float>& bias = layer->expert_bias()->values();
      if (found == state.arrays.end() || found->second.size() != bias.size()) {
        throw Error(ExitCode::checkpoint,
                    str("the checkpoint's state.json has no ", bias_name(*layer), " of ", bias.size(), " values"));
      }
      for (size_t e = 0; e < bias.size(); ++e) bias[e] = static_cast<float>(found->second[e]);
    }
    if (const auto found = state.arrays.find(counts_name(*layer)); found != state.arrays.end()) {
      std::vector<int64_t>& counts = layer->previous_counts();
      counts.clear();
      for (double count : found->second) counts.push_back(static_cast<int64_t>(count));
    }
  }
}

}  // namespace engine::train
