// The GPU as host code sees it: memory, copies, and one stream per thread of ours (a rank is a thread).
//
// Everything a rank does on its device is queued on its stream, so nothing needs waiting for except results that the
// host reads. A build without CUDA has no device, and says so.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

struct CUstream_st;
struct CUevent_st;

namespace engine {

using DeviceStream = CUstream_st*;  // cudaStream_t, without its header

// Empty if there is a device; else what is missing and what to do.
std::string why_no_device();
// Throws Error(environment) with that reason.
void require_device();
// Devices this process sees, and which of them it uses: 0 unless told otherwise before its first use. Throws
// Error(environment) without a device.
int device_count();
void choose_device(int index);
// The device's place on the bus, which tells the devices of a host apart.
std::string device_bus_id();
// "NVIDIA H200, 139 GiB", or "emulated device (no GPU)".
std::string device_name();
// The newest CUDA that the driver knows, "13.0".
std::string device_driver();

// The calling thread's stream, which does not wait for the null stream.
DeviceStream device_stream();
// Waits for the stream, and throws what its kernels have met.
void device_synchronize();
// How often the calling thread has waited for its stream so far, and how long.
struct DeviceWaits {
  int64_t count = 0;
  double seconds = 0;
};
DeviceWaits device_waits();
// Of the calling thread: called whenever it has waited for its stream, before anybody reads what came of that; it
// throws if the stream went on although results of other ranks have not come.
void set_stream_check(std::function<void()> check);

// Of the device: bytes that are taken, by anybody, and that are left.
int64_t device_memory_used();
int64_t device_memory_free();

// How often the process has taken or given back memory of its device: while that does not change, addresses do not.
int64_t device_memory_changes();

// Zeroed. Throws Error(environment) when there is no memory.
void* device_allocate(int64_t bytes);
void device_free(void* memory) noexcept;

// On the stream. `from` may be changed once copy_to_device returns, which waits only where megabytes before it are
// still under way; copy_to_host waits until `to` is complete.
void copy_to_device(void* to, const void* from, int64_t bytes);
void copy_to_host(void* to, const void* from, int64_t bytes);
void device_copy(void* to, const void* from, int64_t bytes);  // both on the device
void device_fill(void* memory, int byte, int64_t bytes);

// A copy that comes to the host while both go on: start() queues it, wait() waits for it and for nothing that was
// queued behind it. The memory on the host is pinned, and there from reserve() on.
class PinnedCopy {
 public:
  PinnedCopy() = default;
  PinnedCopy(PinnedCopy&& other) noexcept;
  PinnedCopy& operator=(PinnedCopy&&) = delete;
  ~PinnedCopy();
  void reserve(int64_t bytes);
  void start(const void* from, int64_t bytes);
  void wait();
  const char* data() const { return data_; }

 private:
  char* data_ = nullptr;
  CUevent_st* copied_ = nullptr;
};

// Workspace of an op on the calling thread's stream: it grows and never shrinks, and the next call that asks for it
// overwrites it, in stream order.
void* device_scratch(int64_t bytes);

// Side streams of the calling thread, for parts of an op that do not depend on each other. After use(i) device_stream()
// and device_scratch() are those of side stream i, which goes on where the thread's own stream was when the fork began.
// After join() they are the thread's own again, and its stream goes on when all side streams are done. The host waits
// for nothing, and must not until the fork is joined. A fork that an exception ends is not joined.
class DeviceFork {
 public:
  static constexpr int kStreams = 4;
  explicit DeviceFork(int64_t scratch_bytes);  // of each side stream, so that the parts need not allocate
  ~DeviceFork();
  DeviceFork(const DeviceFork&) = delete;
  void use(int stream);
  void join();

 private:
  bool used_[kStreams] = {};
};

}  // namespace engine
