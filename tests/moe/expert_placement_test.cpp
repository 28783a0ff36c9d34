// Placement by load: EPLB's published example, permutations near the best possible, uneven experts.
#include "moe/expert_placement.h"

#include <algorithm>
#include <numeric>
#include <random>

#include "tests/support/compare.h"

namespace {

using moe::spread_experts;

// The smallest load that the fullest rank can have, by trying everything.
int64_t best_possible(const std::vector<int64_t>& load, std::vector<int64_t>& rank_loads, std::vector<int64_t>& room,
                      size_t next) {
  if (next == load.size()) return *std::max_element(rank_loads.begin(), rank_loads.end());
  int64_t best = INT64_MAX;
  for (size_t r = 0; r < room.size(); ++r) {
    if (room[r] == 0) continue;
    --room[r], rank_loads[r] += load[next];
    best = std::min(best, best_possible(load, rank_loads, room, next + 1));
    ++room[r], rank_loads[r] -= load[next];
  }
  return best;
}

}  // namespace

TEST_CASE("placement: EPLB's example") {
  const std::vector<std::vector<int64_t>> loads{{90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86},
                                                {20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27}};
  const std::vector<std::vector<int64_t>> expected{{5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1},
                                                   {7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1}};
  for (size_t l = 0; l < 2; ++l) {
    CHECK(moe::replicate_experts(loads[l], {.replicas = 16, .groups = 4, .nodes = 2, .gpus = 8}) == expected[l]);
  }
}

TEST_CASE("placement: near the best possible, as many experts on each rank as before") {
  std::mt19937_64 random(3);
  for (int64_t ranks : {2, 3, 4}) {
    for (int draw = 0; draw < 40; ++draw) {
      std::vector<int64_t> load;
      for (int e = 0; e < 8; ++e)
        load.push_back(static_cast<int64_t>(random() % 1000) * (draw % 3 == 0 && e < 2 ? 4 : 1));
      const std::vector<int32_t> rank_of = spread_experts(load, ranks), before = moe::consecutive_experts(8, ranks);
      std::vector<int64_t> room(static_cast<size_t>(ranks)), used = room, none = room;
      for (size_t e = 0; e < 8; ++e) ++room[static_cast<size_t>(before[e])], ++used[static_cast<size_t>(rank_of[e])];
      CHECK(used == room);
      const int64_t best = best_possible(load, none, room, 0), mine = moe::fullest_rank(load, rank_of, ranks);
      INFO(ranks << " ranks, draw " << draw << ": " << mine << " beside " << best);
      CHECK(static_cast<double>(mine) <= 1.05 * static_cast<double>(best));
    }
  }
  CHECK(spread_experts(std::vector<int64_t>{5, 5, 5, 5}, 2) == std::vector<int32_t>{0, 1, 0, 1});
  CHECK(moe::consecutive_experts(8, 3) == std::vector<int32_t>{0, 0, 0, 1, 1, 1, 2, 2});
}
