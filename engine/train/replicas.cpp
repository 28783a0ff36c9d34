#include "engine/train/replicas.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "comm/text.h"
#include "engine/checkpoint/weights_hash.h"
#include "engine/core/error.h"

namespace engine::train {
namespace {

// Two numbers for each weight of the table; zeros for an expert of other ranks.
std::vector<int64_t> hashes_of(const TensorTable& table) {
  std::vector<int64_t> hashes(2 * table.entries().size());
  for (size_t i = 0; i < table.entries().size(); ++i) {
    if (const nn::Parameter* parameter = table.entries()[i].local) {
      const Hash128 hash = checkpoint::hash_weight(*parameter);
      std::memcpy(hashes.data() + 2 * i, &hash, sizeof(hash));
    }
  }
  return hashes;
}

// Whether a number is the same on every rank of a group.
bool agrees(comm::Group& group, int64_t value) {
  int64_t largest[2] = {value, ~value};
  group.all_reduce_max(Tensor(largest, DType::i64, {2})).wait();
  return largest[0] == ~largest[1];
}

// "ranks 0, 1 of HOST" for each hash that some rank has.
std::string holders(const std::vector<int64_t>& hashes_R2, const std::vector<std::string>& hosts, int64_t entry,
                    int64_t entries) {
  std::map<std::pair<int64_t, int64_t>, std::string> ranks;
  for (size_t r = 0; r < hosts.size(); ++r) {
    const int64_t* hash = hashes_R2.data() + 2 * (static_cast<int64_t>(r) * entries + entry);
    if (hash[0] == 0 && hash[1] == 0) continue;  // does not hold it
    std::string& list = ranks[{hash[0], hash[1]}];
    list += str(list.empty() ? "" : ", ", "rank ", r, " on ", hosts[r]);
  }
  std::string text;
  if (ranks.size() < 2) return text;
  for (const auto& [hash, list] : ranks) text += (text.empty() ? "" : " | ") + list;
  return text;
}

}  // namespace

void check_replicas(const TensorTable& table, comm::ParallelGroups& groups) {
  comm::Group& world = *groups.world;
  if (world.size() == 1) return;
  const std::vector<int64_t> hashes = hashes_of(table);
  int64_t dense = 0, expert = 0;
  for (size_t i = 0; i < table.entries().size(); ++i) {
    const nn::Parameter* parameter = table.entries()[i].local;
    if (parameter == nullptr) continue;
    int64_t& sum = parameter->spec.is_expert ? expert : dense;
    sum = static_cast<int64_t>(static_cast<uint64_t>(sum) * 3 + static_cast<uint64_t>(hashes[2 * i]));
  }
  int64_t differs = agrees(world, dense) ? 0 : 1;
  if (!agrees(*groups.expert_dp, expert)) differs = 1;
  world.all_reduce_max(Tensor(&differs, DType::i64, {1})).wait();
  if (differs == 0) return;

  char host[64] = {};
  gethostname(host, sizeof(host) - 1);
  const std::vector<std::string> hosts = comm::all_gather_text(world, host);
  const int64_t entries = static_cast<int64_t>(table.entries().size());
  std::vector<int64_t> all(hosts.size() * hashes.size());
  world
      .all_gather(Tensor(all.data(), DType::i64, {static_cast<int64_t>(all.size())}),
                  ConstTensor(hashes.data(), DType::i64, {static_cast<int64_t>(hashes.size())}))
      .wait();
  for (int64_t i = 0; i < entries; ++i) {
    const std::string list = holders(all, hosts, i, entries);
    if (list.empty()) continue;
    throw Error(ExitCode::rank_lost,
                str(table.entries()[static_cast<size_t>(i)].name, " is not the same on all ranks that hold it: ", list,
                    "; the memory or a processor of one of them is at fault, nothing was saved: leave that host out "
                    "and resume from the last checkpoint"));
  }
}

}  // namespace engine::train
