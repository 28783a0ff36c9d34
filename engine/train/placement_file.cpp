#include "engine/train/placement_file.h"

#include <filesystem>
#include <fstream>
#include <iterator>

#include "engine/config/json_reader.h"
#include "engine/core/error.h"

namespace engine::train {
namespace {

constexpr ExitCode kCode = ExitCode::usage;

void require_number(const JsonValue& plan, const char* name, int64_t expected, const std::string& path) {
  const int64_t value = plan.at(name, kCode).integer;
  if (value == expected) return;
  throw Error(kCode, str("the plan ", path, " has ", name, " ", value, " but the run has ", expected,
                         "; make one for it: switchyard experts simulate TRACE --ep-size N --plan FILE"));
}

std::vector<int32_t> read_layer(const JsonValue& layer, const ModelConfig& model, int64_t ep_size,
                                const std::string& where) {
  if (layer.find("expert_of_slot") != nullptr) {
    throw Error(kCode, str(where,
                           " has copies of experts (expert_of_slot), with which training would not give the same "
                           "bits; use a plan without --replicas"));
  }
  std::vector<int32_t> ranks;
  for (const JsonValue& rank : layer.at("rank_of_expert", kCode).items) {
    if (rank.type != JsonValue::Type::integer || rank.integer < 0 || rank.integer >= ep_size) {
      throw Error(kCode, str(where, " puts expert ", ranks.size(), " on rank ", rank.integer, " of ", ep_size));
    }
    ranks.push_back(static_cast<int32_t>(rank.integer));
  }
  if (static_cast<int64_t>(ranks.size()) != model.num_experts) {
    throw Error(kCode, str(where, " places ", ranks.size(), " experts but the model has ", model.num_experts));
  }
  return ranks;
}

}  // namespace

moe::ExpertPlacement read_placement(const std::string& path, const ModelConfig& model, int64_t ep_size) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    throw Error(kCode, str("cannot read the plan ", path,
                           " (parallel.expert_placement); give a file of `experts simulate --plan`, or \"auto\""));
  }
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  const JsonValue plan = read_json(text, {.max_bytes = int64_t{1} << 26}, kCode);
  require_number(plan, "version", 1, path);
  require_number(plan, "ep_size", ep_size, path);
  require_number(plan, "num_experts", model.num_experts, path);
  moe::ExpertPlacement placement{.ranks = ep_size, .rank_of_expert_LE = {}};
  for (const JsonValue& layer : plan.at("layers", kCode).items) {
    const std::string where = str("layer ", placement.rank_of_expert_LE.size(), " of the plan ", path);
    placement.rank_of_expert_LE.push_back(read_layer(layer, model, ep_size, where));
  }
  const int64_t layers = static_cast<int64_t>(placement.rank_of_expert_LE.size());
  if (layers != model.num_moe_layers()) {
    throw Error(kCode, str("the plan ", path, " has ", layers, " layers but the model has ", model.num_moe_layers(),
                           " with experts"));
  }
  return placement;
}

moe::ExpertPlacement initial_placement(const Config& config, int64_t ep_size) {
  if (!config.parallel.expert_placement || *config.parallel.expert_placement == "auto" || ep_size == 1) return {};
  const std::filesystem::path path(*config.parallel.expert_placement);
  const std::filesystem::path directory(config.directory);
  return read_placement((path.is_absolute() ? path : directory / path).string(), config.model, ep_size);
}

moe::ExpertPlacement spread_by_load(const std::vector<double>& load, const ModelConfig& model, int64_t ep_size) {
  const size_t E = static_cast<size_t>(model.num_experts);
  ENSURE(load.size() == E * static_cast<size_t>(model.num_moe_layers()), load.size(), " counts");
  moe::ExpertPlacement placement{.ranks = ep_size, .rank_of_expert_LE = {}};
  std::vector<int64_t> layer(E);
  for (size_t first = 0; first < load.size(); first += E) {
    for (size_t e = 0; e < E; ++e) layer[e] = static_cast<int64_t>(load[first + e]);
    placement.rank_of_expert_LE.push_back(moe::spread_experts(layer, ep_size));
  }
  return placement;
}

}  // namespace engine::train
