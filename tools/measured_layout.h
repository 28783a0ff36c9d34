// What `plan` and `bench ops` measure: ranks as threads of this machine, or one GPU.
#pragma once

#include <algorithm>
#include <string>

#include "engine/config/check.h"
#include "engine/core/error.h"
#include "engine/core/thread_pool.h"
#include "engine/train/memory_plan.h"
#include "tools/device_option.h"

namespace tools {

// threads: of each rank; 0: all processors, divided.
inline engine::train::Layout measured_layout(const engine::Config& config, int ranks, int threads,
                                             const std::string& device) {
  engine::train::Layout layout{.ranks = ranks, .ep_size = engine::check_ranks(config, ranks)};
  layout.threads = threads > 0 ? threads : std::max(1, engine::available_processors() / ranks);
  layout.device = chosen_device(device);
  if (layout.device == engine::Device::cpu) return layout;
  if (ranks > 1) {
    throw engine::Error(engine::ExitCode::usage,
                        "--device cuda measures one GPU; plan several with --cluster, a description of them");
  }
  layout.element_bytes = config.train.precision == "bf16" ? 2 : 4;
  return layout;
}

}  // namespace tools
