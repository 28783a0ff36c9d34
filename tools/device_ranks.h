// Ranks, and what they compute on: which --ranks, --transport, --device and --share-gpu go together.
#pragma once

#include <memory>
#include <string>

#include "comm/group.h"
#include "comm/nccl_world.h"
#include "tools/command_line.h"
#include "tools/launch.h"

namespace tools {

struct Ranks {
  RankOptions how{};
  std::string device = "cpu";
  comm::DeviceShare share{};
};
// --ranks, --threads, --transport, --device and --share-gpu of a benchmark.
void add_rank_options(CommandLine& command, Ranks& ranks);

// Throws Error(usage) where they do not go together for that many ranks, and Error(environment) where the device or
// NCCL is missing.
void check_devices(const Ranks& ranks, int world_size);

// Collective: checks, gives each rank its device, and returns the world that moves what is on GPUs.
std::unique_ptr<comm::Group> on_devices(std::unique_ptr<comm::Group> world, const Ranks& ranks);

}  // namespace tools
