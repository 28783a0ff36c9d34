// What has to hold for the sum of what all ranks wrote before it may become a checkpoint.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

namespace engine::checkpoint {

// The weights of the whole model and how many elements each has.
using Weights = std::map<std::string, int64_t>;

// `weights` and `moments` are those lists of the manifest. Every weight of `expected` is there once and no other,
// together they have `elements`, and each kind of moment tiles each weight exactly; what is not known (empty, 0) is not
// compared. A weight that was updated since the checkpoint of which `previous` has the hashes must have another one.
// Throws Error(bug) with the first weight for which that is not so.
void check_written(const nlohmann::ordered_json& weights, const nlohmann::ordered_json& moments,
                   const Weights& expected, int64_t elements, const std::map<std::string, std::string>& previous);

}  // namespace engine::checkpoint
