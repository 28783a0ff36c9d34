#include "engine/checkpoint/save_checks.h"

#include <algorithm>
#include <set>
#include <utility>
#include <vector>

#include "engine/core/error.h"

namespace engine::checkpoint {

using Json = nlohmann::ordered_json;

namespace {

template <class... Parts>
[[noreturn]] void refuse(const Parts&... parts) {
  throw Error(ExitCode::bug, str(parts..., "; please report this"));
}

// Elements of each weight that was written, every one once.
Weights written_weights(const Json& weights) {
  Weights written;
  for (const Json& weight : weights) {
    const std::string name = weight.at("name");
    if (!written.insert({name, weight.at("count").get<int64_t>()}).second) refuse(name, " was written by two ranks");
  }
  return written;
}

void check_names(const Weights& written, const Weights& expected) {
  for (const auto& [name, elements] : expected) {
    const auto found = written.find(name);
    if (found == written.end()) refuse(name, " was written by no rank");
    if (found->second != elements) refuse(name, " has ", elements, " elements but ", found->second, " were written");
  }
  for (const auto& [name, elements] : written) {
    if (!expected.contains(name)) refuse(name, " was written but is no weight of the model");
  }
}

void check_tiling(const Json& moments, const Weights& written) {
  using Ranges = std::vector<std::pair<int64_t, int64_t>>;  // begin, count
  std::map<std::string, Ranges> ranges;
  for (const auto& [name, elements] : written) ranges[name];
  for (const Json& moment : moments) ranges[moment.at("name")].push_back({moment.at("begin"), moment.at("count")});
  for (auto& [name, parts] : ranges) {
    std::sort(parts.begin(), parts.end());
    int64_t next = 0;
    for (const auto& [begin, count] : parts) {
      if (begin != next) refuse("optimizer values of ", name, " begin at element ", begin, " but should at ", next);
      next += count;
    }
    const auto weight = written.find(name);
    if (weight == written.end()) refuse("there are optimizer values of ", name, " but no such weight");
    if (next != weight->second) refuse(next, " of ", weight->second, " optimizer values of ", name, " were written");
  }
}

void check_not_stale(const Json& weights, const Json& moments, const std::map<std::string, std::string>& previous) {
  std::set<std::string> updated;
  for (const Json& moment : moments) {
    if (moment.at("updated")) updated.insert(moment.at("name"));
  }
  for (const Json& weight : weights) {
    const std::string name = weight.at("name");
    const auto before = previous.find(name);
    if (before == previous.end() || !updated.contains(name) || before->second != weight.at("xxh3").get<std::string>())
      continue;
    refuse(name, " was updated since the last checkpoint, yet what was written is what that one holds");
  }
}

}  // namespace

void check_written(const Json& weights, const Json& moments, const Weights& expected, int64_t elements,
                   const std::map<std::string, std::string>& previous) {
  const Weights written = written_weights(weights);
  if (!expected.empty()) check_names(written, expected);
  int64_t total = 0;
  for (const auto& [name, count] : written) total += count;
  if (elements > 0 && total != elements) {
    refuse("the weights that were written have ", total, " elements but the config makes ", elements);
  }
  check_tiling(moments, written);
  check_not_stale(weights, moments, previous);
}

}  // namespace engine::checkpoint
