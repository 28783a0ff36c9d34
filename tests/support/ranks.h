// Test cases on every transport: as threads of this process, or, started by tests/support/mpirun.sh, on the ranks that
// MPI started.
#pragma once

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>

#include "comm/thread_group.h"
#include "comm/world.h"
#include "engine/core/error.h"
#include "tests/support/compare.h"

namespace test {

inline bool on_mpi() {
  const char* transport = std::getenv("TEST_TRANSPORT");
  return transport != nullptr && std::strcmp(transport, "mpi") == 0;
}

// Every rank of the MPI job as a group of its own for one test case. A rank that fails ends the job: the others would
// wait for it.
inline void run_mpi_ranks(const std::function<void(std::unique_ptr<comm::Group>)>& body) {
  static std::unique_ptr<comm::Group> world;
  if (!comm::mpi_is_built()) {
    std::printf("skipped: built without MPI\n");
    std::exit(77);
  }
  try {
    if (!world) world = comm::open_world();
    engine::ThreadPool pool(1);
    pool.make_current();
    body(world->split(0, world->rank()));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "rank %d: %s\n", world ? world->rank() : -1, error.what());
    comm::abort_world(1);
  }
}

// doctest's checks are not for several threads: a rank says what is wrong by throwing.
inline void expect(bool ok, const std::string& what) {
  if (!ok) throw engine::Error(engine::ExitCode::bug, what);
}

}  // namespace test
