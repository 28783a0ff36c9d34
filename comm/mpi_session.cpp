#include "comm/mpi_session.h"

#include <unistd.h>

#include <exception>
#include <string>

#include "comm/world.h"
#include "engine/core/error.h"

namespace comm {

using engine::Error;
using engine::ExitCode;

void check_mpi(int code, const char* call) {
  if (code == MPI_SUCCESS) [[likely]]
    return;
  char text[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  MPI_Error_string(code, text, &length);
  throw Error(ExitCode::rank_lost, engine::str("a message between ranks failed in ", call, ": ", text));
}

MpiSession::MpiSession() {
  int provided = 0;
  if (MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided) != MPI_SUCCESS) {
    throw Error(ExitCode::environment, "MPI does not start; see its message above");
  }
  if (provided < MPI_THREAD_SERIALIZED) {
    throw Error(ExitCode::environment, engine::str(mpi_library(), " does not allow programs with threads"));
  }
}

MpiSession::~MpiSession() {
  if (std::uncaught_exceptions() == 0) MPI_Finalize();
}

bool mpi_is_built() {
  return true;
}

std::string mpi_library() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING] = {};
  int length = 0;
  MPI_Get_library_version(text, &length);
  const std::string version(text, static_cast<size_t>(length));
  return version.substr(0, version.find_first_of(",\n"));
}

std::unique_ptr<Group> open_world() {
  auto session = std::make_shared<MpiSession>();
  MPI_Comm ranks = MPI_COMM_NULL;
  check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &ranks), "MPI_Comm_dup");
  check_mpi(MPI_Comm_set_errhandler(ranks, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  return make_mpi_group(std::move(session), ranks);
}

void abort_world(int exit_code) {
  int begun = 0, ended = 0;
  MPI_Initialized(&begun);
  MPI_Finalized(&ended);
  if (begun && !ended) MPI_Abort(MPI_COMM_WORLD, exit_code);
  _exit(exit_code);
}

}  // namespace comm
