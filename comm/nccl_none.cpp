#include "comm/nccl_world.h"
#include "engine/core/error.h"

namespace comm {

bool nccl_is_built() {
  return false;
}

std::string nccl_library() {
  return "";
}

std::unique_ptr<Group> make_nccl_group(std::unique_ptr<Group>) {
  throw engine::Error(engine::ExitCode::environment,
                      "this program was built without NCCL; install libnccl2 and libnccl-dev and build it again with "
                      "-Dcuda=enabled -Dnccl=enabled, or use --ranks 1");
}

}  // namespace comm
