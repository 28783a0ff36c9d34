#include "tests/emulation/stream.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <deque>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

// Per stream the last operation that is known to be over.
using Clock = std::map<const void*, uint32_t>;

struct CUstream_st {
  struct Item {
    const char* what;
    emulation::Operation run;
    uint32_t number;
  };
  std::deque<Item> queue;
  Clock clock;
  std::thread::id rank = std::this_thread::get_id();  // a rank is a thread
};

struct CUevent_st {
  Clock clock;
  uint64_t recorded = 0, reached = 0;
};

namespace emulation {
namespace {

// Recursive, and can be let go wholly.
class DeviceMutex {
 public:
  void lock() { mutex_.lock(), ++depth_; }
  void unlock() { --depth_, mutex_.unlock(); }
  void let_others() {
    const int depth = std::exchange(depth_, 0);
    for (int i = 0; i < depth; ++i) mutex_.unlock();
    std::this_thread::sleep_for(std::chrono::microseconds(20));
    for (int i = 0; i < depth; ++i) mutex_.lock();
    depth_ = depth;
  }

 private:
  std::recursive_mutex mutex_;
  int depth_ = 0;  // of the thread that holds it
};

constexpr std::chrono::seconds kPatience(20);  // with ranks that do nothing

DeviceMutex device;  // one operation of the whole process runs at a time
uint64_t finished_operations = 0;
bool others_expected = false;  // an operation waits for what another rank has not called yet
std::vector<CUstream_st*> streams;
Settings current;
uint64_t random_state = 1;
uint32_t running = 0;
thread_local Clock host_clock;

// Of every operation ever queued, for happens_before(); operation 0 is what the host did.
struct Order {
  const void* stream = nullptr;
  Clock clock;
};
std::vector<Order> orders(1);

void join(Clock& clock, const Clock& other) {
  for (const auto& [stream, number] : other) clock[stream] = std::max(clock[stream], number);
}

bool step(CUstream_st* stream) {
  if (stream->queue.empty()) return false;
  running = stream->queue.front().number;
  const bool finished = stream->queue.front().run();
  running = 0;
  if (finished) stream->queue.pop_front(), ++finished_operations;
  return finished;
}

bool step_another() {
  std::vector<CUstream_st*> order = streams;
  if (current.streams == Streams::shuffled) {
    for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[next_random(random_state) % i]);
  }
  return std::any_of(order.begin(), order.end(), step);
}

// Lets other ranks call what an operation here waits for; false: it comes to nothing.
bool wait_for_others(uint64_t& seen, std::chrono::steady_clock::time_point& since) {
  const auto now = std::chrono::steady_clock::now();
  if (seen != finished_operations) seen = finished_operations, since = now;
  if (!others_expected || now - since > kPatience) return false;
  device.let_others();
  return true;
}

// Runs queued work until done(): the wanted stream, and others only while it is stuck or, shuffled, at random.
template <class Done>
void drive(CUstream_st* wanted, Done done) {
  std::lock_guard lock(device);
  if (done()) return;
  const DeviceAccess access;  // once for all that runs: with much memory in use it takes longer than a small kernel
  uint64_t seen = finished_operations;
  auto since = std::chrono::steady_clock::now();
  while (!done()) {
    others_expected = false;
    const bool prefer_wanted = current.streams != Streams::shuffled || next_random(random_state) % 4 != 0;
    if (wanted != nullptr && prefer_wanted && step(wanted)) continue;
    if (step_another()) continue;
    if (done() || wait_for_others(seen, since)) continue;
    std::string text = "queued work cannot finish; stuck at:";
    for (CUstream_st* stream : streams) {
      if (!stream->queue.empty()) text += std::string(" ") + stream->queue.front().what;
      stream->queue.clear();
    }
    return fault(text, "stream", 0);
  }
}

// Everything has run but what waits for other ranks on streams that are not this rank's.
bool all_idle() {
  return std::all_of(streams.begin(), streams.end(), [](CUstream_st* s) {
    return s->queue.empty() || (others_expected && s->rank != std::this_thread::get_id());
  });
}

cudaError_t status() {
  return first_fault() == nullptr ? cudaSuccess : cudaErrorLaunchFailure;
}

std::map<const void*, int> dynamic_limits;

}  // namespace

void set(const Settings& settings) {
  synchronize_all();
  current = settings;
  random_state = settings.seed * 0x9e3779b97f4a7c15u | 1;
  for (int i = 0; i < 8; ++i) next_random(random_state);
}
const Settings& settings() {
  return current;
}

bool checks_accesses() {
  return observer != nullptr;
}

uint32_t current_operation() {
  return running;
}
void expect_others() {
  others_expected = true;
}
AsOperation::AsOperation(uint32_t operation) : before_(std::exchange(running, operation)) {}
AsOperation::~AsOperation() {
  running = before_;
}
bool happens_before(uint32_t earlier, uint32_t later) {
  if (earlier == 0 || later == 0) return true;
  const auto seen = orders[later].clock.find(orders[earlier].stream);
  return seen != orders[later].clock.end() && seen->second >= earlier;
}

void enqueue(cudaStream_t stream, const char* what, Operation run) {
  std::lock_guard lock(device);
  if (stream == nullptr) return fault(std::string(what) + " on the null stream; use device_stream()", "stream", 0);
  if (auto* recorded = recorded_operations()) return recorded->push_back({what, std::move(run)}), void();
  const auto number = static_cast<uint32_t>(orders.size());
  join(stream->clock, host_clock);
  stream->clock[stream] = number;
  orders.push_back({stream, observer != nullptr ? stream->clock : Clock{}});
  stream->queue.push_back({what, std::move(run), number});
  if (current.streams == Streams::immediate) {
    drive(stream, [stream] { return stream->queue.empty(); });
  }
}

void synchronize_all() {
  std::lock_guard lock(device);
  for (CUstream_st* stream : streams) join(host_clock, stream->clock);
  others_expected = false;
  drive(nullptr, all_idle);
}

cudaError_t allow_dynamic_shared(const void* kernel, int bytes) {
  std::lock_guard lock(device);
  dynamic_limits[kernel] = bytes;
  return cudaSuccess;
}

cudaError_t enqueue_kernel(const void* kernel, dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
                           std::function<void()> body) {
  std::lock_guard lock(device);
  const size_t threads = size_t{block.x} * block.y * block.z;
  const auto limit = dynamic_limits.find(kernel);
  const size_t most_shared = limit == dynamic_limits.end() ? 48 * 1024 : static_cast<size_t>(limit->second);
  if (threads == 0 || threads > 1024 || block.z > 64 || grid.x == 0 || grid.y == 0 || grid.z == 0 ||
      grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535 || shared_bytes > most_shared) {
    return cudaErrorInvalidConfiguration;
  }
  enqueue(stream, "kernel", [=, body = std::move(body)] {
    run_grid(grid, block, shared_bytes, current_operation(), body);
    return true;
  });
  return status();
}

}  // namespace emulation

using emulation::drive;
using emulation::join;

cudaError_t cudaGetLastError() {
  return emulation::status();
}
const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    case cudaErrorNotReady:
      return "cudaErrorNotReady";
    case cudaErrorStreamCaptureUnsupported:
      return "cudaErrorStreamCaptureUnsupported";
    case cudaErrorLaunchFailure:
      return "cudaErrorLaunchFailure";
  }
  return "?";
}
const char* cudaGetErrorString(cudaError_t error) {
  const char* fault = emulation::first_fault();
  return error == cudaErrorLaunchFailure && fault != nullptr ? fault : cudaGetErrorName(error);
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = 0;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  return device == 0 ? cudaSuccess : cudaErrorInvalidValue;
}
cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetPCIBusId(char* id, int length, int) {
  std::snprintf(id, static_cast<size_t>(length), "emulated");
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  emulation::synchronize_all();
  return emulation::status();
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  std::lock_guard lock(emulation::device);
  if (flags != cudaStreamNonBlocking) emulation::fault("streams are created with cudaStreamNonBlocking", "stream", 0);
  emulation::streams.push_back(*stream = new CUstream_st);
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (emulation::recorded_operations() != nullptr) return cudaErrorStreamCaptureUnsupported;
  std::lock_guard lock(emulation::device);
  join(emulation::host_clock, stream->clock);
  drive(stream, [stream] { return stream->queue.empty(); });
  return emulation::status();
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  std::lock_guard lock(emulation::device);
  const cudaError_t result = cudaStreamSynchronize(stream);
  std::erase(emulation::streams, stream);
  delete stream;
  return result;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new CUevent_st;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  emulation::synchronize_all();
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  std::lock_guard lock(emulation::device);
  if (event->reached < event->recorded) return cudaErrorNotReady;
  return emulation::status();
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (emulation::recorded_operations() != nullptr) return cudaErrorStreamCaptureUnsupported;
  std::lock_guard lock(emulation::device);
  join(emulation::host_clock, event->clock);
  drive(nullptr, [event, version = event->recorded] { return event->reached >= version; });
  return emulation::status();
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  std::lock_guard lock(emulation::device);
  const uint64_t version = ++event->recorded;
  join(stream->clock, emulation::host_clock);
  event->clock = stream->clock;
  emulation::enqueue(stream, "event record", [=] {
    event->reached = std::max(event->reached, version);
    return true;
  });
  return emulation::status();
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  std::lock_guard lock(emulation::device);
  const uint64_t version = event->recorded;
  if (version == 0) emulation::fault("a wait for an event that was never recorded waits for nothing", "stream", 0);
  join(stream->clock, event->clock);
  emulation::enqueue(stream, "event wait", [=] { return event->reached >= version; });
  return emulation::status();
}
