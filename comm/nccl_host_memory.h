// Memory that forked processes share: mapped before the fork, given out in boards, one for each group.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "comm/group.h"

namespace comm {

class HostMemory {
 public:
  static constexpr int64_t kPiece = int64_t{1} << 16;  // bytes of a rank at a time
  static constexpr int kMostRanks = 64;                // of a host

  // Reserves addresses; only what is used takes memory. Throws Error(environment) where that fails.
  HostMemory();
  ~HostMemory();
  HostMemory(const HostMemory&) = delete;

  // What the ranks of a group share.
  struct Board {
    std::atomic<uint64_t>* met;  // by rank: how often it has met the others
    char* pieces;                // [ranks][kPiece]
  };
  static int64_t board_bytes(int ranks) { return kMostRanks * 8 + ranks * kPiece; }
  // Room for a board, zeroed: its place in the mapping, the same for every process.
  int64_t allocate(int64_t bytes);
  Board at(int64_t place) const {
    return {reinterpret_cast<std::atomic<uint64_t>*>(base_ + place), base_ + place + kMostRanks * 8};
  }

 private:
  static constexpr int64_t kBytes = int64_t{1} << 32;
  char* base_ = nullptr;  // begins with how much is given out
};

// Takes part in the group whose board is there.
std::unique_ptr<Group> make_forked_group(HostMemory& memory, int64_t board, int rank, int size);

}  // namespace comm
