#include "engine/checkpoint/snapshot.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <map>

#include "engine/core/device.h"
#include "engine/core/thread_pool.h"

namespace engine::checkpoint {
namespace {

// The weights this rank writes: dense ones in turn over all ranks, experts by the first holder.
std::vector<const nn::Parameter*> weights_of_rank(const nn::ParameterStore& store, comm::ParallelGroups& groups) {
  std::vector<const nn::Parameter*> mine;
  int64_t before = 0, total = 0;
  for (const nn::Parameter& p : store.all()) total += p.spec.is_expert ? 0 : p.elements;
  for (const nn::Parameter& p : store.all()) {
    if (p.spec.is_expert) {
      if (groups.expert_dp->rank() == 0) mine.push_back(&p);
      continue;
    }
    const int64_t owner = before * groups.world->size() / std::max<int64_t>(1, total);
    if (owner == groups.world->rank()) mine.push_back(&p);
    before += p.elements;
  }
  return mine;
}

// "KIND-0000i-of-0000n.safetensors", numbered over the ranks that have something to write.
std::string shard_name(const char* kind, comm::Group& world, bool has_some) {
  int64_t flag = has_some ? 1 : 0;
  std::vector<int64_t> flags(static_cast<size_t>(world.size()));
  world.all_gather(Tensor(flags.data(), DType::i64, {world.size()}), ConstTensor(&flag, DType::i64, {1})).wait();
  if (!has_some) return "";
  long long mine = 0, of = 0;
  for (int r = 0; r < world.size(); ++r) {
    of += flags[static_cast<size_t>(r)];
    if (r == world.rank()) mine = of;
  }
  char name[64];
  std::snprintf(name, sizeof(name), "%s-%05lld-of-%05lld.safetensors", kind, mine, of);
  return name;
}

}  // namespace

std::string Snapshot::Piece::hash_key() const {
  return kind == "weight" ? name : kind + "." + name;
}

Snapshot::Snapshot(const nn::ParameterStore& store, const std::vector<MomentSlice>& moments,
                   comm::ParallelGroups& groups)
    : device_(store.device()) {
  for (const nn::Parameter* p : weights_of_rank(store, groups)) {
    weights_.push_back({.kind = "weight",
                        .name = p->spec.name,
                        .shape = p->spec.dims,
                        .begin = 0,
                        .count = p->elements,
                        .source = p->weight.f32()});
  }
  std::map<std::string, const nn::Parameter*> parameters;
  for (const nn::Parameter& p : store.all()) parameters[p.spec.name] = &p;
  for (const MomentSlice& slice : moments) {
    Piece piece{.kind = "exp_avg",
                .name = slice.name,
                .shape = parameters.at(slice.name)->spec.dims,
                .begin = slice.begin,
                .count = slice.count,
                .source = slice.exp_avg,
                .updated = slice.updated};
    moments_.push_back(piece);
    piece.kind = "exp_avg_sq";
    piece.source = slice.exp_avg_sq;
    piece.updated = nullptr;
    moments_.push_back(piece);
  }
  model_file_ = shard_name("model", *groups.world, !weights_.empty());
  optimizer_file_ = shard_name("optimizer", *groups.world, !moments_.empty());
  give_memory();
}

void Snapshot::give_memory() {
  constexpr int64_t kChunk = int64_t{1} << 16;
  int64_t elements = 0;
  for (const auto* pieces : {&weights_, &moments_}) {
    for (const Piece& piece : *pieces) elements += piece.count;
  }
  memory_ = Buffer(elements * 4);
  float* at = memory_.f32();
  for (auto* pieces : {&weights_, &moments_}) {
    for (Piece& piece : *pieces) {
      piece.copy = at;
      for (int64_t begin = 0; begin < piece.count; begin += kChunk) {
        chunks_.push_back({piece.source + begin, at + begin, std::min(kChunk, piece.count - begin)});
      }
      at += piece.count;
    }
  }
}

void Snapshot::take() {
  if (device_ == Device::cuda) {
    for (const auto* pieces : {&weights_, &moments_}) {
      for (const Piece& piece : *pieces) copy_to_host(piece.copy, piece.source, piece.count * 4);
    }
  } else {
    copy_chunks();
  }
  for (Piece& piece : moments_) {
    if (piece.updated == nullptr) continue;
    piece.was_updated = *piece.updated != 0;
    *piece.updated = 0;
  }
}

void Snapshot::copy_chunks() {
  parallel_for(static_cast<int64_t>(chunks_.size()), [this](int64_t i) {
    const Chunk& chunk = chunks_[static_cast<size_t>(i)];
    std::memcpy(chunk.to, chunk.from, static_cast<size_t>(chunk.elements) * 4);
  });
}

}  // namespace engine::checkpoint
