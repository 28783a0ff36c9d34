// Which rank of an expert-parallel group holds which expert, and how to choose it by load.
//
// No bit of the training depends on it: rows at experts are sorted by expert and token wherever the expert is, and
// everything that is named or numbered goes by global experts.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace moe {

// [MoE layers][experts]: ranks; no layers: consecutive experts on every rank.
struct ExpertPlacement {
  int64_t ranks = 0;
  std::vector<std::vector<int32_t>> rank_of_expert_LE;
  bool operator==(const ExpertPlacement&) const = default;

  // Of one layer.
  std::vector<int32_t> layer(size_t index, int64_t experts, int64_t ep_size) const;
};

// Consecutive experts, the first `experts % ranks` ranks hold one more (comm/parallel_groups.h).
std::vector<int32_t> consecutive_experts(int64_t experts, int64_t ranks);

// As many experts on each rank as with consecutive ones, and the load of the fullest rank small: experts go, the
// largest first, to the rank with the least load that has room; then pairs change places while that makes the fullest
// rank's load smaller. Ties: the lower expert, the lower rank.
std::vector<int32_t> spread_experts(std::span<const int64_t> load_E, int64_t ranks);

// Load of the fullest rank.
int64_t fullest_rank(std::span<const int64_t> load_E, std::span<const int32_t> rank_of_expert_E, int64_t ranks);

// Copies of experts on `gpus` of `nodes`, `replicas` slots in all, by the method of EPLB: groups of experts go to
// nodes, within a node the expert with the largest load per copy gets another one until the slots are full, and the
// copies go to GPUs; each time the largest first, to where the least load is, as many to each. Where nodes do not
// divide groups, all is one node and one group. Returns the expert of each slot, slots / gpus on each GPU in order.
struct ReplicaShape {
  int64_t replicas = 0, groups = 1, nodes = 1, gpus = 1;
};
std::vector<int64_t> replicate_experts(std::span<const int64_t> load_E, ReplicaShape shape);

// The plan as a file: {"version": 1, "ep_size", "num_experts", "layers": [{"rank_of_expert": [...]}]}.
std::string placement_json(const ExpertPlacement& placement);

}  // namespace moe
