// The writing of one checkpoint from a snapshot.
#pragma once

#include <map>
#include <string>

#include "engine/checkpoint/checkpoint.h"
#include "engine/checkpoint/snapshot.h"

namespace engine::checkpoint {

struct SavedCheckpoint {
  std::string path;
  std::map<std::string, std::string> hashes;  // of each weight; on the first rank
  std::string warning;                        // what went wrong with older checkpoints afterwards, "" if nothing
};

// Collective over `world`, which nobody else may use meanwhile. `previous`: the hashes of the last checkpoint, on the
// first rank; `attempt`: another number each time. Returns when the checkpoint is durable and retention is done.
// A failure on any rank throws on every rank; what was written is removed, and older checkpoints stay as they were.
SavedCheckpoint write_checkpoint(const std::string& directory, const Snapshot& snapshot, const SaveRequest& request,
                                 const std::map<std::string, std::string>& previous, int64_t attempt,
                                 comm::Group& world);

}  // namespace engine::checkpoint
