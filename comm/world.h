// Ranks as processes of one MPI job: several machines, or one.
//
// Every collective is made of point-to-point messages, and sums are taken in rank order, so that they depend on no
// algorithm an MPI library may choose. Only MPI-3 is used. Different groups may be used by different threads.
#pragma once

#include <memory>
#include <string>

#include "comm/group.h"

namespace comm {

// Whether this program was built with an MPI library.
bool mpi_is_built();
// Its name and version; empty without one.
std::string mpi_library();

// Joins the MPI job that this process was started in; a process of its own is a job of one. To be called once. MPI ends
// with the last of the groups, unless they go because of an exception: the process is then to end with an exit code,
// upon which the launcher ends the others. Throws Error(environment) without MPI.
std::unique_ptr<Group> open_world();

// Ends every process of the job with this exit code.
[[noreturn]] void abort_world(int exit_code);

}  // namespace comm
