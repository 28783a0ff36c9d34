// What the NCCL groups of one rank share: the stream their collectives run on, and the thread that watches them.
//
// There is one stream for all groups: kernels of two communicators that ranks start in different orders may wait for
// each other for ever; on one stream they run in the order of the program, which all ranks share.
#pragma once

#include <nccl.h>

#include <array>
#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "comm/group.h"
#include "engine/core/activity.h"

namespace comm {

// Throws Error unless `result` says that `call` succeeded: rank_lost where another rank or the network failed, else
// environment.
void check_nccl(ncclResult_t result, const char* call);

class NcclSession : public std::enable_shared_from_this<NcclSession> {
 public:
  // To be called by the main thread of `rank`, whose number is for messages.
  explicit NcclSession(int rank);
  ~NcclSession();
  NcclSession(const NcclSession&) = delete;

  // What messages say of a collective; the texts are literals.
  struct Collective {
    const char* name = "";
    const char* group = "";
    uint64_t number = 0;
    double deadline = 0;  // seconds; 0: none
  };
  // Queues what issue(stream) calls of NCCL as one collective, after what the calling thread's stream has been given.
  template <class Issue>
  Work run(const Collective& collective, Issue issue) {
    Slot& slot = begin(collective);
    std::lock_guard calls(calls_);
    open(slot);
    issue(stream_);
    return close(slot);
  }

  // Collective: a communicator of the ranks that give the same id. It ends with leave(), or with an error.
  ncclComm_t join(const ncclUniqueId& id, int rank, int size);
  void leave(ncclComm_t communicator) noexcept;

  // Throws what the watch has found.
  void check() const;

 private:
  static constexpr uint64_t kSlots = 64;  // collectives that the host may be ahead of the device

  // A collective under way.
  struct Slot final : Work::State {
    void wait() override { session->order_after(*this); }
    NcclSession* session = nullptr;
    Collective what;
    int64_t layer = -1, step = 0;
    cudaEvent_t begun = nullptr;  // this rank's stream has come to it
    cudaEvent_t done = nullptr;
    bool issued = false;  // `done` is recorded
  };
  void start();
  Slot& begin(const Collective& collective);
  void open(const Slot& slot);
  Work close(Slot& slot);
  void order_after(Slot& slot);
  void watch();
  std::string look(double now);
  void say_waiting(const Slot* slot);
  void fail(const std::string& error);
  std::string describe(const Slot& slot) const;

  const int rank_;
  engine::Activity& activity_;
  cudaStream_t stream_ = nullptr;  // made with the first communicator
  int device_ = 0;
  std::array<Slot, kSlots> slots_;
  std::timed_mutex calls_;  // held in calls of NCCL

  mutable std::mutex mutex_;  // of all below
  std::vector<ncclComm_t> communicators_;
  uint64_t begun_ = 0, ended_ = 0;  // collectives
  uint64_t waiting_for_ = 0;        // the collective that was found waiting for other ranks, and since when
  double waiting_since_ = 0;
  const char* said_ = nullptr;  // in activity_.collective, by the watch
  std::string error_;
  std::atomic<bool> failed_{false};
  bool leaving_ = false;
  std::condition_variable wake_;
  std::thread watch_;
};

}  // namespace comm
