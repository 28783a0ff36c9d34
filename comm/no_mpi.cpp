#include <unistd.h>

#include "comm/world.h"
#include "engine/core/error.h"

namespace comm {

bool mpi_is_built() {
  return false;
}

std::string mpi_library() {
  return "";
}

std::unique_ptr<Group> open_world() {
  throw engine::Error(engine::ExitCode::environment,
                      "this program was built without MPI; install libopenmpi-dev and openmpi-bin and build it again, "
                      "or use --transport threads");
}

void abort_world(int exit_code) {
  _exit(exit_code);
}

}  // namespace comm
