#include "comm/nccl_session.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <utility>

#include "engine/core/cuda_check.h"
#include "engine/core/device.h"
#include "engine/core/profiler.h"

namespace comm {

using engine::Error;
using engine::ExitCode;
using engine::str;

namespace {

constexpr std::chrono::milliseconds kTick(20);
constexpr std::chrono::seconds kCallEnds(2);  // the main thread leaves a call of NCCL by then unless it hangs there
constexpr double kLongWait = 0.5;             // seconds: from then on a rank is said to wait

}  // namespace

void check_nccl(ncclResult_t result, const char* call) {
  if (result == ncclSuccess) [[likely]]
    return;
  const bool lost = result == ncclRemoteError || result == ncclSystemError;
  const char* more = ncclGetLastError(nullptr);
  const bool has_more = more != nullptr && *more != '\0';
  throw Error(lost ? ExitCode::rank_lost : ExitCode::environment,
              str(call, " failed: ", ncclGetErrorString(result), has_more ? ": " : "", has_more ? more : "",
                  "; NCCL_DEBUG=WARN says more"));
}

NcclSession::NcclSession(int rank) : rank_(rank), activity_(engine::activity()) {
  for (Slot& slot : slots_) slot.session = this;
}

NcclSession::~NcclSession() {
  {
    std::lock_guard lock(mutex_);
    leaving_ = true;
  }
  wake_.notify_all();
  if (watch_.joinable()) watch_.join();
  for (Slot& slot : slots_) {
    if (slot.begun != nullptr) cudaEventDestroy(slot.begun), cudaEventDestroy(slot.done);
  }
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

// What needs a device, once there is something to do on it.
void NcclSession::start() {
  if (stream_ != nullptr) return;
  engine::set_stream_check([session = weak_from_this()] {
    if (auto alive = session.lock()) alive->check();
  });
  CUDA_CHECK(cudaGetDevice(&device_));
  CUDA_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  for (Slot& slot : slots_) {
    CUDA_CHECK(cudaEventCreateWithFlags(&slot.begun, cudaEventDisableTiming));
    CUDA_CHECK(cudaEventCreateWithFlags(&slot.done, cudaEventDisableTiming));
  }
  watch_ = std::thread([this] { watch(); });
}

ncclComm_t NcclSession::join(const ncclUniqueId& id, int rank, int size) {
  check();
  start();
  ncclComm_t communicator = nullptr;
  check_nccl(ncclCommInitRank(&communicator, size, id, rank), "ncclCommInitRank");
  std::lock_guard lock(mutex_);
  communicators_.push_back(communicator);
  return communicator;
}

void NcclSession::leave(ncclComm_t communicator) noexcept {
  const bool unwinding = std::uncaught_exceptions() > 0;
  if (!unwinding) cudaStreamSynchronize(stream_);
  {
    std::lock_guard lock(mutex_);
    if (std::erase(communicators_, communicator) == 0) return;  // it went with an error
  }
  // while an exception unwinds, what is under way may wait for ranks that are gone
  unwinding ? ncclCommAbort(communicator) : ncclCommDestroy(communicator);
}

void NcclSession::check() const {
  if (!failed_.load(std::memory_order_acquire)) [[likely]]
    return;
  std::lock_guard lock(mutex_);
  throw Error(ExitCode::rank_lost, error_);
}

NcclSession::Slot& NcclSession::begin(const Collective& collective) {
  check();
  const uint64_t number = begun_ + 1;
  Slot& slot = slots_[number % kSlots];
  if (number > kSlots) {
    CUDA_CHECK(cudaEventSynchronize(slot.done));
    order_after(slot);  // nobody may have waited for it
  }
  std::lock_guard lock(mutex_);
  CUDA_CHECK(cudaEventRecord(slot.begun, engine::device_stream()));
  slot.what = collective;
  slot.layer = activity_.layer, slot.step = activity_.step;
  slot.issued = false;
  if (number > kSlots) ended_ = std::max(ended_, number - kSlots);
  begun_ = number;
  return slot;
}

void NcclSession::open(const Slot& slot) {
  check();
  CUDA_CHECK(cudaStreamWaitEvent(stream_, slot.begun, 0));
  check_nccl(ncclGroupStart(), "ncclGroupStart");
}

Work NcclSession::close(Slot& slot) {
  check_nccl(ncclGroupEnd(), slot.what.name);
  std::lock_guard lock(mutex_);
  CUDA_CHECK(cudaEventRecord(slot.done, stream_));
  slot.issued = true;
  return Work(slot);
}

void NcclSession::order_after(Slot& slot) {
  check();
  CUDA_CHECK(cudaStreamWaitEvent(engine::device_stream(), slot.done, 0));
}

void NcclSession::watch() {
  cudaSetDevice(device_);  // else the runtime would begin one on the first device
  for (;;) {
    std::string error;
    {
      std::unique_lock lock(mutex_);
      if (wake_.wait_for(lock, kTick, [this] { return leaving_; })) return;
      if (!failed_) error = look(engine::monotonic_seconds());
    }
    if (!error.empty()) fail(error);
  }
}

// What is wrong; empty as long as all is well. Holds mutex_.
std::string NcclSession::look(double now) {
  for (; ended_ < begun_; ++ended_) {
    const Slot& slot = slots_[(ended_ + 1) % kSlots];
    if (!slot.issued || cudaEventQuery(slot.done) != cudaSuccess) break;
  }
  const Slot* oldest = ended_ < begun_ ? &slots_[(ended_ + 1) % kSlots] : nullptr;
  for (ncclComm_t communicator : communicators_) {
    ncclResult_t state = ncclSuccess;
    if (ncclCommGetAsyncError(communicator, &state) == ncclSuccess && state == ncclSuccess) continue;
    if (state == ncclInProgress) continue;
    return str("rank ", rank_, " has lost others", oldest == nullptr ? "" : " in ",
               oldest == nullptr ? "" : describe(*oldest), ": ", ncclGetErrorString(state),
               "; start again, and the run goes on from its last checkpoint");
  }
  const bool waits = oldest != nullptr && cudaEventQuery(oldest->begun) == cudaSuccess;
  if (!waits) return say_waiting(nullptr), "";
  if (waiting_for_ != ended_ + 1) waiting_for_ = ended_ + 1, waiting_since_ = now, say_waiting(nullptr);
  const double waited = now - waiting_since_;
  if (waited > kLongWait) say_waiting(oldest);
  if (oldest->what.deadline == 0 || waited <= oldest->what.deadline) return "";
  return str("rank ", rank_, " has waited ", oldest->what.deadline, " seconds in ", describe(*oldest),
             " for other ranks; see whether they run, and whether their hosts and this one reach each other");
}

// The main thread may be waiting for its stream, and thereby for others: a judge is to know. Null: it is not. What the
// main thread says of itself goes before.
void NcclSession::say_waiting(const Slot* slot) {
  const char* said = activity_.collective.load(std::memory_order_relaxed);
  if (said != said_) said_ = nullptr;  // the main thread has said something else meanwhile
  const char* now = slot == nullptr ? nullptr : slot->what.name;
  if (now == said_ || (now != nullptr && said != nullptr)) return;
  if (slot != nullptr) {
    activity_.group.store(slot->what.group, std::memory_order_relaxed);
    activity_.number.store(static_cast<int64_t>(slot->what.number), std::memory_order_relaxed);
  }
  if (activity_.collective.compare_exchange_strong(said, now)) said_ = now;
  activity_.advance();
}

std::string NcclSession::describe(const Slot& slot) const {
  const std::string layer = slot.layer < 0 ? "" : str(" for layer ", slot.layer);
  return str(slot.what.name, " number ", slot.what.number, " of ", slot.what.group, layer,
             slot.step == 0 ? "" : str(" in step ", slot.step));
}

// The error is there before NCCL's kernels end and the streams go on.
void NcclSession::fail(const std::string& error) {
  std::vector<ncclComm_t> ended;
  {
    std::lock_guard lock(mutex_);
    error_ = error;
    ended = std::exchange(communicators_, {});
    failed_.store(true, std::memory_order_release);
  }
  std::unique_lock calls(calls_, kCallEnds);
  for (ncclComm_t communicator : ended) ncclCommAbort(communicator);
}

}  // namespace comm
