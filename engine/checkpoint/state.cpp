#include <cstdio>
#include <nlohmann/json.hpp>

#include "engine/checkpoint/checkpoint.h"

namespace engine::checkpoint {

using Json = nlohmann::ordered_json;

std::string checkpoint_name(int64_t step) {
  char name[32];
  std::snprintf(name, sizeof(name), "step-%08lld", static_cast<long long>(step));
  return name;
}

std::vector<std::string> state_classes() {
  return {"weights", "exp_avg", "exp_avg_sq",    "state",   "step",   "tokens", "schedule",
          "data",    "rng",     "balance_state", "history", "digest", "lineage"};
}

std::string state_text(const TrainingState& state) {
  Json ancestors = Json::array();
  for (const Ancestor& a : state.ancestors) {
    ancestors.push_back({{"run", a.run},
                         {"step", a.step},
                         {"digest", a.digest},
                         {"config_hash", a.config_hash},
                         {"text_hash", a.text_hash},
                         {"changes", a.changes}});
  }
  Json json = {{"version", 1},
               {"step", state.step},
               {"tokens", state.tokens},
               {"schedule", {{"total_steps", state.total_steps}}},
               {"data", {{"next_sample", state.next_sample}}},
               {"rng", {{"seed", state.seed}}},
               {"digest", state.digest},
               {"weights_hash", state.weights_hash},
               {"lineage",
                {{"run", state.run},
                 {"config_hash", state.config_hash},
                 {"text_hash", state.text_hash},
                 {"ancestors", ancestors}}},
               {"config_directory", state.config_directory},
               {"arrays", state.arrays}};
  json["config"] = Json::parse(state.config);
  return json.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace engine::checkpoint
