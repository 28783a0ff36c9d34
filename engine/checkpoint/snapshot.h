// What this rank writes of a checkpoint, copied between two steps so that training may go on meanwhile.
//
// Dense weights are divided over all ranks, experts are written by the first rank that holds them, moments by their
// owner. The memory is taken once.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "comm/parallel_groups.h"
#include "engine/core/buffer.h"
#include "engine/nn/parameters.h"

namespace engine::checkpoint {

// A part of a weight's optimizer state that this rank holds.
struct MomentSlice {
  std::string name;  // of the weight
  int64_t begin = 0, count = 0;
  float* exp_avg = nullptr;
  float* exp_avg_sq = nullptr;
  uint32_t* updated = nullptr;  // set to 1 by whoever changes this part of the weight; null: not known
  Device device = Device::cpu;  // of the moments
};

class Snapshot {
 public:
  // Elements [begin, begin + count) of a weight or of one of its moments.
  struct Piece {
    std::string kind, name;      // "weight", "exp_avg" or "exp_avg_sq", of which weight
    std::vector<int64_t> shape;  // of the whole weight
    int64_t begin = 0, count = 0;
    const float* source = nullptr;  // on the device of the store
    float* copy = nullptr;
    uint32_t* updated = nullptr;   // of exp_avg
    bool was_updated = false;      // when the copy was taken
    std::string hash_key() const;  // see hash_blocks()
  };

  // Collective over groups.world.
  Snapshot(const nn::ParameterStore& store, const std::vector<MomentSlice>& moments, comm::ParallelGroups& groups);

  // Copies everything, on the threads of the current pool, and takes over the marks of what was updated.
  void take();

  const std::vector<Piece>& weights() const { return weights_; }
  const std::vector<Piece>& moments() const { return moments_; }
  // Of the file with this rank's weights or moments, "" if it has none.
  const std::string& model_file() const { return model_file_; }
  const std::string& optimizer_file() const { return optimizer_file_; }
  int64_t bytes() const { return memory_.bytes(); }

 private:
  struct Chunk {
    const float* from;
    float* to;
    int64_t elements;
  };
  void give_memory();
  void copy_chunks();

  std::vector<Piece> weights_, moments_;
  std::vector<Chunk> chunks_;  // of all pieces, for the threads that copy
  std::string model_file_, optimizer_file_;
  Buffer memory_;
  Device device_;
};

}  // namespace engine::checkpoint
