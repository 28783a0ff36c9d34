#include "moe/expert_placement.h"

#include <algorithm>
#include <bit>
#include <numeric>

#include "comm/parallel_groups.h"
#include "engine/core/error.h"

namespace moe {

std::vector<int32_t> consecutive_experts(int64_t experts, int64_t ranks) {
  std::vector<int32_t> rank_of_expert;
  for (int rank = 0; rank < static_cast<int>(ranks); ++rank) {
    const comm::ExpertRange range = comm::experts_of_rank(experts, rank, static_cast<int>(ranks));
    rank_of_expert.resize(static_cast<size_t>(range.end), rank);
  }
  return rank_of_expert;
}

std::vector<int32_t> ExpertPlacement::layer(size_t index, int64_t experts, int64_t ep_size) const {
  if (rank_of_expert_LE.empty() || ep_size == 1) return consecutive_experts(experts, ep_size);
  ENSURE(ranks == ep_size && index < rank_of_expert_LE.size(), "a placement on ", ranks, " ranks for ", ep_size);
  return rank_of_expert_LE[index];
}

namespace {

std::vector<size_t> largest_first(std::span<const double> loads) {
  std::vector<size_t> order(loads.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return loads[a] > loads[b]; });
  return order;
}

// The items of each pack in the order they came: the largest first, to the pack with the least load that has room.
std::vector<std::vector<size_t>> pack(std::span<const double> loads, std::span<const int64_t> room) {
  std::vector<std::vector<size_t>> packs(room.size());
  std::vector<double> load(room.size());
  for (size_t item : largest_first(loads)) {
    size_t best = room.size();
    for (size_t p = 0; p < room.size(); ++p) {
      const bool has_room = static_cast<int64_t>(packs[p].size()) < room[p];
      if (has_room && (best == room.size() || load[p] < load[best])) best = p;
    }
    packs[best].push_back(item);
    load[best] += loads[item];
  }
  return packs;
}

std::vector<int64_t> load_by_rank(std::span<const int64_t> load_E, std::span<const int32_t> rank_of, int64_t ranks) {
  std::vector<int64_t> load(static_cast<size_t>(ranks));
  for (size_t e = 0; e < load_E.size(); ++e) load[static_cast<size_t>(rank_of[e])] += load_E[e];
  return load;
}

// Experts of two ranks that are divided anew by trying everything; more of them only change places one by one.
constexpr size_t kTriedAll = 14;

// The division of `members` in which `count` of them go to the first part and the larger part is smallest, as a mask.
uint32_t divide_best(std::span<const int64_t> load_E, const std::vector<size_t>& members, int count) {
  int64_t all = 0, best = INT64_MAX;
  for (size_t e : members) all += load_E[e];
  uint32_t best_mask = 0;
  for (uint32_t mask = 0; mask < 1u << members.size(); ++mask) {
    if (std::popcount(mask) != count) continue;
    int64_t first = 0;
    for (size_t i = 0; i < members.size(); ++i) first += mask >> i & 1 ? load_E[members[i]] : 0;
    if (std::max(first, all - first) < best) best = std::max(first, all - first), best_mask = mask;
  }
  return best_mask;
}

// The fullest rank and one other divide their experts anew where that lowers the larger load of the two; false: nobody
// can relieve it.
bool relieve_by_division(std::span<const int64_t> load_E, std::vector<int32_t>& rank_of, int64_t ranks) {
  const std::vector<int64_t> load = load_by_rank(load_E, rank_of, ranks);
  const int32_t full = static_cast<int32_t>(std::max_element(load.begin(), load.end()) - load.begin());
  for (int32_t other = 0; other < static_cast<int32_t>(ranks); ++other) {
    if (other == full) continue;
    std::vector<size_t> members;
    int count = 0;
    for (size_t e = 0; e < load_E.size(); ++e) {
      if (rank_of[e] != full && rank_of[e] != other) continue;
      members.push_back(e);
      count += rank_of[e] == full ? 1 : 0;
    }
    if (members.size() > kTriedAll) continue;
    const uint32_t mask = divide_best(load_E, members, count);
    std::vector<int32_t> next = rank_of;
    for (size_t i = 0; i < members.size(); ++i) next[members[i]] = mask >> i & 1 ? full : other;
    const std::vector<int64_t> divided = load_by_rank(load_E, next, ranks);
    const size_t a = static_cast<size_t>(full), b = static_cast<size_t>(other);
    if (std::max(divided[a], divided[b]) >= load[a]) continue;
    rank_of = next;
    return true;
  }
  return false;
}

// One exchange of an expert of the fullest rank that lowers the larger load of the two ranks most; false: none does.
bool exchange_once(std::span<const int64_t> load_E, std::vector<int32_t>& rank_of, std::vector<int64_t>& load_of_rank) {
  const size_t full =
      static_cast<size_t>(std::max_element(load_of_rank.begin(), load_of_rank.end()) - load_of_rank.begin());
  int64_t best = load_of_rank[full];
  size_t from = load_E.size(), to = load_E.size();
  for (size_t a = 0; a < load_E.size(); ++a) {
    if (rank_of[a] != static_cast<int32_t>(full)) continue;
    for (size_t b = 0; b < load_E.size(); ++b) {
      const size_t other = static_cast<size_t>(rank_of[b]);
      if (other == full) continue;
      const int64_t moved = load_E[a] - load_E[b];
      const int64_t larger = std::max(load_of_rank[full] - moved, load_of_rank[other] + moved);
      if (larger < best) best = larger, from = a, to = b;
    }
  }
  if (from == load_E.size()) return false;
  const int64_t moved = load_E[from] - load_E[to];
  load_of_rank[full] -= moved;
  load_of_rank[static_cast<size_t>(rank_of[to])] += moved;
  std::swap(rank_of[from], rank_of[to]);
  return true;
}

// Until nothing makes the fullest rank's load smaller.
void relieve(std::span<const int64_t> load_E, std::vector<int32_t>& rank_of, int64_t ranks) {
  for (size_t i = 0; i < 4 * load_E.size(); ++i) {
    std::vector<int64_t> load_of_rank = load_by_rank(load_E, rank_of, ranks);
    if (!exchange_once(load_E, rank_of, load_of_rank) && !relieve_by_division(load_E, rank_of, ranks)) return;
  }
}

}  // namespace

std::vector<int32_t> spread_experts(std::span<const int64_t> load_E, int64_t ranks) {
  const int64_t experts = static_cast<int64_t>(load_E.size());
  std::vector<int64_t> room(static_cast<size_t>(ranks));
  for (int32_t rank : consecutive_experts(experts, ranks)) ++room[static_cast<size_t>(rank)];
  const std::vector<double> loads(load_E.begin(), load_E.end());
  std::vector<int32_t> rank_of(load_E.size());
  const std::vector<std::vector<size_t>> packs = pack(loads, room);
  for (size_t rank = 0; rank < packs.size(); ++rank) {
    for (size_t expert : packs[rank]) rank_of[expert] = static_cast<int32_t>(rank);
  }
  relieve(load_E, rank_of, ranks);
  // another start may end better: experts dealt out like cards, forth and back
  std::vector<int32_t> dealt(load_E.size());
  int64_t next = 0;
  for (size_t expert : largest_first(loads)) {
    const int64_t turn = next / ranks, place = next % ranks;
    dealt[expert] = static_cast<int32_t>(turn % 2 == 0 || experts - turn * ranks < ranks ? place : ranks - 1 - place);
    ++next;
  }
  relieve(load_E, dealt, ranks);
  if (fullest_rank(load_E, dealt, ranks) < fullest_rank(load_E, rank_of, ranks)) return dealt;
  return rank_of;
}

int64_t fullest_rank(std::span<const int64_t> load_E, std::span<const int32_t> rank_of_expert_E, int64_t ranks) {
  const std::vector<int64_t> load = load_by_rank(load_E, rank_of_expert_E, ranks);
  return *std::max_element(load.begin(), load.end());
}

namespace {

// The slots of one node: experts `members`, `slots` copies of them on `gpus` GPUs.
void replicate_on_node(std::span<const int64_t> load_E, const std::vector<size_t>& members, int64_t slots, int64_t gpus,
                       std::vector<int64_t>& expert_of_slot) {
  std::vector<double> loads, copies(members.size(), 1.0);
  for (size_t e : members) loads.push_back(static_cast<double>(load_E[e]));
  std::vector<size_t> copy_of(members.size());
  std::iota(copy_of.begin(), copy_of.end(), size_t{0});
  while (static_cast<int64_t>(copy_of.size()) < slots) {
    size_t most = 0;
    for (size_t m = 1; m < members.size(); ++m) {
      if (loads[m] / copies[m] > loads[most] / copies[most]) most = m;
    }
    copy_of.push_back(most);
    ++copies[most];
  }
  std::vector<double> load_of_copy;
  for (size_t m : copy_of) load_of_copy.push_back(loads[m] / copies[m]);
  const std::vector<int64_t> room(static_cast<size_t>(gpus), slots / gpus);
  for (const std::vector<size_t>& gpu : pack(load_of_copy, room)) {
    for (size_t copy : gpu) expert_of_slot.push_back(static_cast<int64_t>(members[copy_of[copy]]));
  }
}

}  // namespace

std::vector<int64_t> replicate_experts(std::span<const int64_t> load_E, ReplicaShape shape) {
  const int64_t experts = static_cast<int64_t>(load_E.size());
  if (shape.groups % shape.nodes != 0) shape.groups = shape.nodes = 1;
  ENSURE(experts % shape.groups == 0 && shape.gpus % shape.nodes == 0 && shape.replicas % shape.gpus == 0 &&
             shape.replicas >= experts,
         shape.replicas, " replicas of ", experts, " experts in ", shape.groups, " groups on ", shape.gpus, " GPUs");
  const size_t group_size = static_cast<size_t>(experts / shape.groups);
  std::vector<double> load_of_group(static_cast<size_t>(shape.groups));
  for (size_t e = 0; e < load_E.size(); ++e) load_of_group[e / group_size] += static_cast<double>(load_E[e]);
  const std::vector<int64_t> room(static_cast<size_t>(shape.nodes), shape.groups / shape.nodes);
  std::vector<int64_t> expert_of_slot;
  for (const std::vector<size_t>& node : pack(load_of_group, room)) {
    std::vector<size_t> members;
    for (size_t group : node) {
      for (size_t i = 0; i < group_size; ++i) members.push_back(group * group_size + i);
    }
    replicate_on_node(load_E, members, shape.replicas / shape.nodes, shape.gpus / shape.nodes, expert_of_slot);
  }
  return expert_of_slot;
}

std::string placement_json(const ExpertPlacement& placement) {
  std::string json =
      engine::str("{\"version\": 1, \"ep_size\": ", placement.ranks, ", \"num_experts\": ",
                  placement.rank_of_expert_LE.empty() ? 0 : placement.rank_of_expert_LE[0].size(), ",\n \"layers\": [");
  for (size_t l = 0; l < placement.rank_of_expert_LE.size(); ++l) {
    json += l == 0 ? "\n  {\"rank_of_expert\": [" : ",\n  {\"rank_of_expert\": [";
    for (size_t e = 0; e < placement.rank_of_expert_LE[l].size(); ++e) {
      json += engine::str(e == 0 ? "" : ", ", placement.rank_of_expert_LE[l][e]);
    }
    json += "]}";
  }
  return json + "\n ]}\n";
}

}  // namespace moe
