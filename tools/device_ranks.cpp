#include "tools/device_ranks.h"

#include <utility>

#include "engine/core/error.h"
#include "tools/device_option.h"

namespace tools {

using engine::Error;
using engine::ExitCode;
using engine::str;

void add_rank_options(CommandLine& command, Ranks& ranks) {
  command.add_option("--ranks", ranks.how.ranks, "ranks").positive();
  command.add_option("--threads", ranks.how.threads, "threads of each rank (default: all processors, divided)")
      .positive();
  command
      .add_option("--transport", ranks.how.transport,
                  "between ranks: threads (default), mpi or, with --device cuda, nccl")
      .one_of({"threads", "mpi", "nccl"});
  add_device_option(command, ranks.device);
  command.add_flag("--share-gpu", ranks.share.shared,
                   "with --transport nccl: several ranks may use one GPU, for tests");
}

void check_devices(const Ranks& ranks, int world_size) {
  const bool cuda = chosen_device(ranks.device) == engine::Device::cuda, nccl = ranks.how.transport == "nccl";
  if (nccl && !cuda) {
    throw Error(ExitCode::usage,
                "--transport nccl moves what is on GPUs; add --device cuda, or use --transport threads or mpi");
  }
  if (ranks.share.shared && !nccl) {
    throw Error(ExitCode::usage, "--share-gpu lets ranks of --transport nccl share a GPU; add that, or leave it out");
  }
  if (nccl && !comm::nccl_is_built()) comm::make_nccl_group(nullptr);  // says what is missing
  if (cuda && world_size > 1 && !nccl) {
    throw Error(ExitCode::usage, str("--device cuda with ", world_size, " ranks needs --transport nccl"));
  }
}

std::unique_ptr<comm::Group> on_devices(std::unique_ptr<comm::Group> world, const Ranks& ranks) {
  check_devices(ranks, world->size());
  if (ranks.how.transport != "nccl") return world;
  comm::choose_devices(*world, ranks.share);
  world = comm::make_nccl_group(std::move(world));
  world->set_name("world");
  return world;
}

}  // namespace tools
