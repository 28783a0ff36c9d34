// Every state that a crash during a save may leave on a disk: in each of them the last checkpoint that was durable is
// whole, or a newer one is, and nothing called step-* is anything but whole.
#include <cstdlib>
#include <set>

#include "engine/checkpoint/checkpoint.h"
#include "engine/checkpoint/preflight.h"
#include "engine/core/hash.h"
#include "engine/train/trainer_checkpoint.h"
#include "tests/support/compare.h"
#include "tests/support/simulated_disk.h"
#include "tests/support/tiny_run.h"

namespace {

using namespace engine;
using test::SimulatedDisk;
using Operation = SimulatedDisk::Operation;
using Kind = Operation::Kind;
using Operations = std::vector<Operation>;

constexpr int64_t kOld = 10, kNew = 20;
const char kDirectory[] = "run/checkpoints";

Config smallest_config() {
  Config config = test::tiny_config();
  config.model.hidden_size = 4;
  config.model.num_hidden_layers = 1;
  config.model.num_attention_heads = 1;
  config.model.num_key_value_heads = 1;
  config.model.head_dim = 4;
  config.model.vocab_size = 5;
  config.model.num_experts = 4;
  config.model.moe_intermediate_size = 3;
  return config;
}

// Saves `trainer` as it is, as the checkpoint of a step.
void save(train::Trainer& trainer, int64_t step, checkpoint::Storage& disk) {
  checkpoint::SaveRequest request = train::save_request(trainer);
  request.state.step = step;
  request.keep_last = 1;
  request.storage = &disk;
  checkpoint::save_checkpoint(kDirectory, request, trainer.groups());
}

// One rank's operations while the shards are written, in its order; those of different ranks touch different files
// and different entries, so what a crash leaves depends on how far each rank came and not on how they took turns.
struct RecordedSave {
  SimulatedDisk::Tree before;
  Operations first, last;           // of the first rank, before and after the shards
  std::vector<Operations> by_rank;  // the shards
  size_t durable = 0;               // how many of `last` have to be over before the save is called durable
};

bool is_shard(const std::string& name) {
  return name.starts_with("model-") || name.starts_with("optimizer-");
}

RecordedSave record(int ranks) {
  RecordedSave saved;
  SimulatedDisk disk;
  std::map<std::thread::id, int> rank_of;
  std::mutex mutex;
  comm::run_thread_ranks(ranks, 1, [&](std::unique_ptr<comm::Group> world) {
    comm::ParallelGroups groups = comm::make_parallel_groups(std::move(world), ranks);
    train::Trainer trainer(smallest_config(), groups);
    save(trainer, kOld, disk);
    groups.world->barrier();
    if (groups.world->rank() == 0) {
      saved.before = disk.tree();
      disk.forget_operations();
    }
    {
      std::lock_guard lock(mutex);
      rank_of[std::this_thread::get_id()] = groups.world->rank();
    }
    groups.world->barrier();
    trainer.store().find("model.norm.weight")->weight.f32()[0] = 3;
    save(trainer, kNew, disk);
  });
  saved.by_rank.resize(static_cast<size_t>(ranks));
  std::set<int> shards;
  for (const Operation& op : disk.operations()) {
    if (op.kind == Kind::link && is_shard(op.name)) shards.insert(op.target);
    if (shards.contains(op.node) || shards.contains(op.target)) {
      if (op.kind != Kind::unlink) saved.by_rank[static_cast<size_t>(rank_of.at(op.thread))].push_back(op);
      continue;
    }
    (shards.empty() ? saved.first : saved.last).push_back(op);
  }
  size_t renamed = 0;
  for (size_t i = 0; i < saved.last.size(); ++i) {
    if (saved.last[i].to == checkpoint::checkpoint_name(kNew)) renamed = i;
    if (renamed > 0 && saved.durable == 0 && saved.last[i].kind == Kind::sync_directory) saved.durable = i + 1;
  }
  REQUIRE(saved.durable > 0);
  return saved;
}

// What may become of an operation that no sync has covered.
enum class Fate { done, lost, half, zeros };

// The operations of a prefix that were not made durable; `ignored`: a sync that did nothing.
std::vector<size_t> pending(const Operations& ops, const Operation* ignored = nullptr) {
  std::vector<size_t> open;
  for (size_t i = 0; i < ops.size(); ++i) {
    const Kind kind = ops[i].kind;
    if (kind != Kind::sync_file && kind != Kind::sync_directory) {
      open.push_back(i);
      continue;
    }
    const bool same =
        ignored != nullptr && ignored->kind == kind && ignored->node == ops[i].node && ignored->data == ops[i].data;
    if (same) continue;
    std::erase_if(open, [&](size_t before) {
      return ops[before].node == ops[i].node && (ops[before].kind == Kind::write) == (kind == Kind::sync_file);
    });
  }
  return open;
}

// Judges states; equal ones only once.
class Judge {
 public:
  Judge() : groups_(comm::make_parallel_groups(comm::make_self_group(), 1)), trainer_(smallest_config(), groups_) {}

  int64_t states = 0, images = 0, violations = 0;
  bool complain = true;

  void judge(const SimulatedDisk::Tree& before, const Operations& ops, const std::vector<Fate>& fates,
             int64_t durable_step) {
    ++states;
    SimulatedDisk::Tree tree = before;
    for (const Operation& op : ops) {
      const size_t nodes = static_cast<size_t>(op.target) + 1;
      if (nodes > tree.size()) tree.resize(nodes);
      if (op.kind == Kind::make_directory) tree[static_cast<size_t>(op.target)].is_directory = true;
    }
    for (size_t i = 0; i < ops.size(); ++i) apply(tree, ops[i], fates[i]);
    const Hash128 image = image_of(tree, durable_step);
    const auto known = verdicts_.find({image.low, image.high});
    std::string problem;
    if (known != verdicts_.end()) {
      problem = known->second;
    } else {
      ++images;
      problem = problem_of(tree, durable_step);
      verdicts_[{image.low, image.high}] = problem;
    }
    if (problem.empty() && states % 4001 == 0) problem = problem_of_next_save(tree);
    if (problem.empty()) return;
    ++violations;
    if (complain && violations < 5) MESSAGE(problem, " after ", ops.size(), " operations");
  }

  void forget() { states = images = violations = 0; }

 private:
  static void apply(SimulatedDisk::Tree& tree, const Operation& op, Fate fate) {
    if (fate == Fate::lost) return;
    if (fate == Fate::done) return SimulatedDisk::apply(tree, op);
    Operation torn = op;
    if (fate == Fate::half) torn.data.resize(torn.data.size() / 2);
    if (fate == Fate::zeros) torn.data.assign(torn.data.size(), '\0');
    SimulatedDisk::apply(tree, torn);
  }

  static int find(const SimulatedDisk::Tree& tree, int node, const std::string& name) {
    const auto found = tree[static_cast<size_t>(node)].entries.find(name);
    return found == tree[static_cast<size_t>(node)].entries.end() ? -1 : found->second;
  }

  // Of everything in the directories called step-*.
  static Hash128 image_of(const SimulatedDisk::Tree& tree, int64_t durable_step) {
    const int directory = find(tree, find(tree, 0, "run"), "checkpoints");
    Hash128 image = xxh3_128(&durable_step, sizeof(durable_step));
    for (const auto& [name, node] : tree[static_cast<size_t>(directory)].entries) {
      if (!name.starts_with("step-")) continue;
      image += xxh3_128(name.data(), static_cast<int64_t>(name.size()));
      const uint64_t key = xxh3_64(name.data(), static_cast<int64_t>(name.size()));
      for (const auto& [file, inner] : tree[static_cast<size_t>(node)].entries) {
        const std::string& data = *tree[static_cast<size_t>(inner)].data;
        image += xxh3_128(data.data(), static_cast<int64_t>(data.size()),
                          key ^ xxh3_64(file.data(), static_cast<int64_t>(file.size())));
      }
    }
    return image;
  }

  std::string problem_of(const SimulatedDisk::Tree& tree, int64_t durable_step) {
    SimulatedDisk disk(tree);
    for (const std::string& name : checkpoint::list_checkpoints(kDirectory, disk)) {
      const auto problems = checkpoint::verify_checkpoint(str(kDirectory, "/", name), disk);
      if (!problems.empty()) return problems[0];
    }
    std::vector<std::string> problems;
    const std::string newest = checkpoint::newest_whole_checkpoint(kDirectory, problems, disk);
    if (newest.empty()) return "nothing to resume from";
    try {
      const checkpoint::Reader reader(newest, disk);
      reader.load_weights(trainer_.store());
      if (reader.state().step < durable_step) return str("resumes from step ", reader.state().step);
      const float first = trainer_.store().find("model.norm.weight")->weight.f32()[0];
      const float expected = reader.state().step == kOld ? 1.0f : 3.0f;
      if (reader.state().step <= kNew && first != expected) return "resumes with other weights";
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }

  // A run that goes on from such a state can save.
  std::string problem_of_next_save(const SimulatedDisk::Tree& tree) {
    SimulatedDisk disk(tree);
    try {
      checkpoint::prepare_directory(kDirectory, 1000, 1, disk);
      save(trainer_, kNew + 10, disk);
      const std::string problem = problem_of(disk.tree(), kNew + 10);
      return problem.empty() ? "" : "after the next save: " + problem;
    } catch (const Error& error) {
      return str("the next save fails: ", error.what());
    }
  }

  comm::ParallelGroups groups_;
  train::Trainer trainer_;
  std::map<std::pair<uint64_t, uint64_t>, std::string> verdicts_;
};

// Every choice of up to `most` operations out of `open` from `begin` on, each with every other fate.
template <class Visit>
void choose(const Operations& ops, const std::vector<size_t>& open, size_t begin, int most, Fate fate_of_lost,
            std::vector<Fate>& fates, const Visit& visit) {
  visit();
  if (most == 0) return;
  for (size_t i = begin; i < open.size(); ++i) {
    Fate& fate = fates[open[i]];
    const Fate before = fate;
    if (fate_of_lost == Fate::done) {  // the others are lost, this one reached the disk
      fate = Fate::done;
      choose(ops, open, i + 1, most - 1, fate_of_lost, fates, visit);
    } else {
      for (Fate other : {Fate::lost, Fate::half, Fate::zeros}) {
        if (other != Fate::lost && ops[open[i]].kind != Kind::write) continue;
        fate = other;
        choose(ops, open, i + 1, most - 1, fate_of_lost, fates, visit);
      }
    }
    fate = before;
  }
}

// All states after a prefix: up to `most` operations lost or torn, or all lost but up to two.
void judge_prefix(Judge& judge, const RecordedSave& saved, const Operations& ops, int most, int64_t durable_step,
                  const Operation* ignored = nullptr) {
  const std::vector<size_t> open = pending(ops, ignored);
  std::vector<Fate> fates(ops.size(), Fate::done);
  const auto visit = [&] { judge.judge(saved.before, ops, fates, durable_step); };
  choose(ops, open, 0, most, Fate::lost, fates, visit);
  if (open.size() <= static_cast<size_t>(most)) return;
  for (size_t i : open) fates[i] = Fate::lost;
  choose(ops, open, 0, std::min(most, 2), Fate::done, fates, visit);
}

// `stride`: only every so many of the ways in which ranks can have come to different points.
void judge_all(Judge& judge, const RecordedSave& saved, int most, int64_t stride, const Operation* ignored = nullptr) {
  Operations ops;
  for (const Operation& op : saved.first) {
    judge_prefix(judge, saved, ops, most, kOld, ignored);
    ops.push_back(op);
  }
  int64_t cuts = 1;
  for (const Operations& rank : saved.by_rank) cuts *= static_cast<int64_t>(rank.size()) + 1;
  for (int64_t cut = 0; cut < cuts; cut = cut + stride < cuts || cut == cuts - 1 ? cut + stride : cuts - 1) {
    Operations reached = saved.first;
    int64_t rest = cut;
    for (const Operations& rank : saved.by_rank) {
      const int64_t length = rest % (static_cast<int64_t>(rank.size()) + 1);
      rest /= static_cast<int64_t>(rank.size()) + 1;
      reached.insert(reached.end(), rank.begin(), rank.begin() + length);
    }
    judge_prefix(judge, saved, reached, most, kOld, ignored);
    if (cut == cuts - 1) ops = reached;
  }
  for (size_t i = 0; i < saved.last.size(); ++i) {
    ops.push_back(saved.last[i]);
    judge_prefix(judge, saved, ops, most, i + 1 >= saved.durable ? kNew : kOld, ignored);
  }
}

bool whole_campaign() {
  return std::getenv("CRASH_STATES") != nullptr;  // every state, for minutes
}

}  // namespace

TEST_CASE("crash states: each leaves the last durable checkpoint or a newer one, and nothing in part") {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  const int64_t strides[] = {1, 5, 101, 1009};
#else
  const int64_t strides[] = {1, 1, 1, 11};
#endif
  int64_t total = 0;
  for (int ranks = 1; ranks <= 4; ++ranks) {
    const RecordedSave saved = record(ranks);
    Judge judge;
    judge_all(judge, saved, 3, whole_campaign() ? 1 : strides[ranks - 1]);
    CHECK(judge.violations == 0);
    CHECK(judge.images >= 3);  // the old one, both, the new one
    MESSAGE(ranks, " ranks: ", judge.states, " states, ", judge.images, " of them differ in what is called step-*");
    total += judge.states;
  }
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  CHECK(total >= 100000);
#endif
}

TEST_CASE("crash states: a sync that does nothing is found, whichever it is") {
  RecordedSave saved = record(2);
  // each sync gets a mark, so that one of them can be left out
  std::vector<Operation> syncs;
  for (Operations* ops : {&saved.by_rank[0], &saved.by_rank[1], &saved.last}) {
    for (Operation& op : *ops) {
      if (op.kind != Kind::sync_file && op.kind != Kind::sync_directory) continue;
      op.data = str("sync ", syncs.size());
      syncs.push_back(op);
    }
  }
  CHECK(syncs.size() >= 11);
  Judge judge;
  judge.complain = false;
  for (const Operation& sync : syncs) {
    judge.forget();
    judge_all(judge, saved, 1, 7, &sync);
    CHECK_MESSAGE(judge.violations > 0, sync.data, " of node ", sync.node, " is not needed");
  }
}
