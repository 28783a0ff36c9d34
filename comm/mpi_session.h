// MPI in this process: begun once, ended with the last group.
#pragma once

#include <mpi.h>

#include <memory>
#include <mutex>

#include "comm/group.h"

namespace comm {

// Throws Error(rank_lost) unless `code` says that `call` succeeded.
void check_mpi(int code, const char* call);

class MpiSession {
 public:
  MpiSession();
  ~MpiSession();
  MpiSession(const MpiSession&) = delete;

  // Held in every call of MPI: groups may be used by several threads, each by one.
  std::mutex& mutex() { return mutex_; }

 private:
  std::mutex mutex_;
};

// Takes over `ranks`.
std::unique_ptr<Group> make_mpi_group(std::shared_ptr<MpiSession> session, MPI_Comm ranks);

}  // namespace comm
