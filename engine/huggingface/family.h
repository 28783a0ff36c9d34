// What transformers calls a model of ours: its family, the config.json that describes it, the names of its weights.
//
//   family       experts  query/key norm     weights over all or the chosen experts
//   mixtral      yes      none               chosen (norm_topk_prob), every layer has experts
//   olmoe        yes      whole projection   either, every layer has experts
//   qwen3_moe    yes      per head           either, dense layers mixed in
//   llama        no       none
//   qwen3        no       per head
//
// Names and keys: the modeling_*.py and configuration_*.py of transformers 4 and 5.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/config/config.h"
#include "engine/core/dtype.h"

namespace engine::huggingface {

struct Family {
  std::string model_type;               // empty: no family expresses the model
  std::string architecture;             // class in transformers
  std::vector<std::string> objections;  // why there is none, one phrase each, e.g. "model.scoring_func sigmoid"
  explicit operator bool() const { return !model_type.empty(); }
};

// The family that computes exactly what the model computes.
Family family_of(const ModelConfig& model);

// The files of that family that describe the model; only to be called if there is one. `end_token` ends a document, if
// the vocabulary has such a token.
std::string config_json(const Family& family, const ModelConfig& model, std::optional<int64_t> end_token,
                        DType stored = DType::f32);
std::string generation_config_json(std::optional<int64_t> end_token);

// The name of a weight in the family's files: ours (those of qwen3_moe), except where Mixtral has its own.
std::string file_name(const Family& family, const std::string& name);

}  // namespace engine::huggingface
