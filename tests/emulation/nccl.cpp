// NCCL for ranks that are threads (include/nccl.h).
#include <nccl.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "tests/emulation/stream.h"

namespace emulation {
namespace {

constexpr std::chrono::seconds kPatience(20);  // for ranks to join a communicator

size_t bytes_of(ncclDataType_t type) {
  return type == ncclUint8 ? 1 : type == ncclFloat32 ? 4 : 8;
}

// What one rank gives to an exchange, and whether its stream has come to it.
struct Part {
  const void* in = nullptr;
  void* out = nullptr;
  uint32_t operation = 0;
  bool called = false, arrived = false;
};

enum class Kind { broadcast, all_reduce, reduce, all_gather, all_to_all, transfer };
constexpr const char* kNames[] = {"ncclBroadcast", "ncclAllReduce", "ncclReduce",
                                  "ncclAllGather", "ncclAlltoAll",  "ncclSend/ncclRecv"};

struct Shape {
  Kind kind = Kind::transfer;
  size_t count = 0;
  ncclDataType_t type = ncclUint8;
  ncclRedOp_t op = ncclSum;
  int root = 0;
  bool operator==(const Shape&) const = default;
  std::string text() const {
    return std::string(kNames[static_cast<size_t>(kind)]) + " of " + std::to_string(count) + " elements of type " +
           std::to_string(type) + ", root " + std::to_string(root);
  }
};

// A collective of all ranks, or a message: its sender is part 0, its receiver part 1.
struct Exchange {
  Shape shape;
  std::vector<Part> parts;
  bool done = false;
};

// The values of one part, read as by the operation of that rank.
std::vector<char> read(const Part& part, size_t bytes) {
  const AsOperation as(part.operation);
  device_read(part.in, bytes);
  const char* from = static_cast<const char*>(part.in);
  return bytes == 0 ? std::vector<char>() : std::vector<char>(from, from + bytes);
}
void write(const Part& part, size_t offset, const std::vector<char>& values) {
  if (values.empty()) return;
  const AsOperation as(part.operation);
  char* to = static_cast<char*>(part.out) + offset;
  std::memcpy(to, values.data(), values.size());
  device_written(to, values.size());
}

template <class T>
void add(std::vector<char>& total, const std::vector<char>& values, ncclRedOp_t op) {
  auto* to = reinterpret_cast<T*>(total.data());
  const auto* from = reinterpret_cast<const T*>(values.data());
  for (size_t i = 0; i < total.size() / sizeof(T); ++i)
    to[i] = op == ncclSum ? to[i] + from[i] : std::max(to[i], from[i]);
}

// From the last rank to the first: who wants the order of ranks is told.
std::vector<char> reduced(const Exchange& x, size_t bytes) {
  std::vector<char> total = read(x.parts.back(), bytes);
  for (size_t r = x.parts.size() - 1; r-- > 0;) {
    const std::vector<char> values = read(x.parts[r], bytes);
    switch (x.shape.type) {
      case ncclInt64:
        add<int64_t>(total, values, x.shape.op);
        break;
      case ncclFloat32:
        add<float>(total, values, x.shape.op);
        break;
      case ncclFloat64:
        add<double>(total, values, x.shape.op);
        break;
      default:
        fault("the stand-in for NCCL adds no bytes", "nccl", 0);
    }
  }
  return total;
}

void perform(const Exchange& x) {
  const size_t bytes = x.shape.count * bytes_of(x.shape.type), root = static_cast<size_t>(x.shape.root);
  switch (x.shape.kind) {
    case Kind::transfer:
      return write(x.parts[1], 0, read(x.parts[0], bytes));
    case Kind::reduce:
      return write(x.parts[root], 0, reduced(x, bytes));
    case Kind::all_reduce:
    case Kind::broadcast: {
      const std::vector<char> values = x.shape.kind == Kind::broadcast ? read(x.parts[root], bytes) : reduced(x, bytes);
      for (const Part& part : x.parts) write(part, 0, values);
      return;
    }
    case Kind::all_gather: {
      std::vector<std::vector<char>> values;
      for (const Part& part : x.parts) values.push_back(read(part, bytes));
      for (const Part& part : x.parts) {
        for (size_t r = 0; r < values.size(); ++r) write(part, r * bytes, values[r]);
      }
      return;
    }
    case Kind::all_to_all: {
      std::vector<std::vector<char>> values;
      for (const Part& part : x.parts) values.push_back(read(part, x.parts.size() * bytes));
      for (size_t to = 0; to < x.parts.size(); ++to) {
        for (size_t from = 0; from < values.size(); ++from) {
          const auto begin = values[from].begin() + static_cast<std::ptrdiff_t>(to * bytes);
          write(x.parts[to], from * bytes, {begin, begin + static_cast<std::ptrdiff_t>(bytes)});
        }
      }
    }
  }
}

// What the ranks of a communicator share.
struct Clique {
  explicit Clique(int size) : called(static_cast<size_t>(size)) {}
  int joined = 0;
  bool broken = false;                                                            // a rank has aborted
  std::vector<uint64_t> called;                                                   // collectives, by rank
  std::map<uint64_t, std::shared_ptr<Exchange>> collectives;                      // by number
  std::map<std::pair<int, int>, std::deque<std::shared_ptr<Exchange>>> messages;  // without receiver or sender
};

std::mutex mutex;
std::condition_variable joined;
std::map<std::string, std::shared_ptr<Clique>> cliques;

}  // namespace
}  // namespace emulation

struct ncclComm {
  std::shared_ptr<emulation::Clique> clique;
  int rank, size;
  std::shared_ptr<bool> aborted = std::make_shared<bool>(false);
};

namespace emulation {
namespace {

// One rank's part of an exchange, on its way to the stream.
struct Call {
  std::shared_ptr<Exchange> exchange;
  size_t part;
};
struct OpenGroup {
  int depth = 0;
  ncclComm_t comm = nullptr;
  cudaStream_t stream = nullptr;
  const char* what = "";
  std::vector<Call> calls;
};
thread_local OpenGroup group;

// The calls of a group go on together: its operation ends when all of them have.
void enqueue_group() {
  if (group.calls.empty()) return;
  enqueue(group.stream, group.what,
          [calls = std::move(group.calls), aborted = group.comm->aborted, clique = group.comm->clique] {
            std::lock_guard lock(mutex);
            bool all_done = true;
            for (const Call& call : calls) {
              Exchange& x = *call.exchange;
              Part& part = x.parts[call.part];
              part.operation = current_operation();
              part.arrived = true;
              const bool ready = std::all_of(x.parts.begin(), x.parts.end(), [](const Part& p) { return p.arrived; });
              if (ready && !x.done && !clique->broken) perform(x), x.done = true;
              all_done = all_done && x.done;
            }
            if (!all_done && !*aborted) expect_others();
            return all_done || *aborted;
          });
  group.calls.clear();
}

ncclResult_t add_call(ncclComm_t comm, cudaStream_t stream, const char* what, Call call) {
  const bool alone = group.depth == 0;
  if (!group.calls.empty() && (group.comm != comm || group.stream != stream)) {
    fault("a group of calls goes to several communicators or streams", "nccl", 0);
  }
  group.comm = comm, group.stream = stream, group.what = what;
  group.calls.push_back(std::move(call));
  if (alone) enqueue_group();
  return cudaGetLastError() == cudaSuccess ? ncclSuccess : ncclUnhandledCudaError;
}

// Notes the part of one rank; `first` says whether nobody has called it before.
void fill(Exchange& x, bool first, size_t part, const Shape& shape, const void* in, void* out, int rank) {
  if (first) x.shape = shape;
  if (!(x.shape == shape)) {
    fault("rank " + std::to_string(rank) + " calls " + shape.text() + ", another one " + x.shape.text(), "nccl", 0);
  }
  x.parts[part].in = in, x.parts[part].out = out, x.parts[part].called = true;
}

ncclResult_t call_collective(ncclComm_t comm, cudaStream_t stream, const Shape& shape, const void* in, void* out) {
  std::shared_ptr<Exchange> x;
  {
    std::lock_guard lock(mutex);
    Clique& clique = *comm->clique;
    const uint64_t number = ++clique.called[static_cast<size_t>(comm->rank)];
    std::shared_ptr<Exchange>& place = clique.collectives[number];
    const bool first = place == nullptr;
    if (first) place = std::make_shared<Exchange>(), place->parts.resize(static_cast<size_t>(comm->size));
    x = place;
    fill(*x, first, static_cast<size_t>(comm->rank), shape, in, out, comm->rank);
    const auto& parts = x->parts;
    const bool all = std::all_of(parts.begin(), parts.end(), [](const Part& p) { return p.called; });
    if (all) clique.collectives.erase(number);
  }
  return add_call(comm, stream, kNames[static_cast<size_t>(shape.kind)], {x, static_cast<size_t>(comm->rank)});
}

// The first message between two ranks that lacks this end, or a new one.
ncclResult_t call_transfer(ncclComm_t comm, cudaStream_t stream, int from, int to, size_t part, const Shape& shape,
                           const void* in, void* out) {
  std::shared_ptr<Exchange> x;
  {
    std::lock_guard lock(mutex);
    auto& waiting = comm->clique->messages[{from, to}];
    const bool first = waiting.empty() || waiting.front()->parts[part].called;
    if (first) {
      waiting.push_back(x = std::make_shared<Exchange>());
      x->parts.resize(2);
    } else {
      x = waiting.front();
      waiting.pop_front();
    }
    fill(*x, first, part, shape, in, out, comm->rank);
  }
  return add_call(comm, stream, part == 0 ? "ncclSend" : "ncclRecv", {x, part});
}

}  // namespace
}  // namespace emulation

using emulation::call_collective;
using emulation::call_transfer;
using emulation::Kind;

ncclResult_t ncclGetVersion(int* version) {
  *version = 22809;
  return ncclSuccess;
}
const char* ncclGetErrorString(ncclResult_t result) {
  switch (result) {
    case ncclSuccess:
      return "no error";
    case ncclUnhandledCudaError:
      return "unhandled cuda error";
    case ncclRemoteError:
      return "remote process exited or there was a network error";
    default:
      return "error";
  }
}
const char* ncclGetLastError(ncclComm_t) {
  return "";
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  static int count = 0;
  std::lock_guard lock(emulation::mutex);
  std::memset(id->internal, 0, sizeof id->internal);
  std::memcpy(id->internal, &++count, sizeof count);
  return ncclSuccess;
}
ncclResult_t ncclCommInitRank(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank) {
  std::unique_lock lock(emulation::mutex);
  const std::string name(id.internal, sizeof id.internal);
  auto& place = emulation::cliques[name];
  if (place == nullptr) place = std::make_shared<emulation::Clique>(ranks);
  auto clique = place;
  if (++clique->joined == ranks) emulation::cliques.erase(name);
  emulation::joined.notify_all();
  if (!emulation::joined.wait_for(lock, emulation::kPatience, [&] { return clique->joined == ranks; })) {
    return ncclSystemError;
  }
  *comm = new ncclComm{clique, rank, ranks};
  return ncclSuccess;
}
ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  delete comm;
  return ncclSuccess;
}
ncclResult_t ncclCommAbort(ncclComm_t comm) {
  {
    std::lock_guard lock(emulation::mutex);
    *comm->aborted = comm->clique->broken = true;
  }
  delete comm;
  return ncclSuccess;
}
ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* error) {
  std::lock_guard lock(emulation::mutex);
  *error = comm->clique->broken ? ncclRemoteError : ncclSuccess;
  return ncclSuccess;
}

ncclResult_t ncclGroupStart() {
  ++emulation::group.depth;
  return ncclSuccess;
}
ncclResult_t ncclGroupEnd() {
  if (--emulation::group.depth == 0) emulation::enqueue_group();
  return cudaGetLastError() == cudaSuccess ? ncclSuccess : ncclUnhandledCudaError;
}
ncclResult_t ncclBroadcast(const void* in, void* out, size_t count, ncclDataType_t type, int root, ncclComm_t comm,
                           cudaStream_t stream) {
  return call_collective(comm, stream, {Kind::broadcast, count, type, ncclSum, root}, in, out);
}
ncclResult_t ncclAllReduce(const void* in, void* out, size_t count, ncclDataType_t type, ncclRedOp_t op,
                           ncclComm_t comm, cudaStream_t stream) {
  return call_collective(comm, stream, {Kind::all_reduce, count, type, op, 0}, in, out);
}
ncclResult_t ncclReduce(const void* in, void* out, size_t count, ncclDataType_t type, ncclRedOp_t op, int root,
                        ncclComm_t comm, cudaStream_t stream) {
  return call_collective(comm, stream, {Kind::reduce, count, type, op, root}, in, out);
}
ncclResult_t ncclAllGather(const void* in, void* out, size_t count, ncclDataType_t type, ncclComm_t comm,
                           cudaStream_t stream) {
  return call_collective(comm, stream, {Kind::all_gather, count, type, ncclSum, 0}, in, out);
}
ncclResult_t ncclAlltoAll(const void* in, void* out, size_t count, ncclDataType_t type, ncclComm_t comm,
                          cudaStream_t stream) {
  return call_collective(comm, stream, {Kind::all_to_all, count, type, ncclSum, 0}, in, out);
}
ncclResult_t ncclSend(const void* in, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return call_transfer(comm, stream, comm->rank, peer, 0, {Kind::transfer, count, type, ncclSum, 0}, in, nullptr);
}
ncclResult_t ncclRecv(void* out, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream) {
  return call_transfer(comm, stream, peer, comm->rank, 1, {Kind::transfer, count, type, ncclSum, 0}, nullptr, out);
}
