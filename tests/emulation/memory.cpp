// Memory of the emulated device: one reservation of addresses, protected while no operation runs. Where the processor
// has protection keys (pkeys(7)) that costs an instruction, else a walk through the pages.

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>

#include "tests/emulation/stream.h"

namespace emulation {
namespace {

constexpr size_t kReserved = size_t{1} << 30, kAlignment = 256, kGap = 512;

std::recursive_mutex memory;
char* arena = nullptr;
char* arena_end = nullptr;  // of what was ever used, in pages
int open_accesses = 0, protection_key = -1;
thread_local int own_accesses = 0;
std::map<char*, size_t> allocations, pinned;

size_t round_up(size_t n, size_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

struct sigaction handler_before;

// A write of the message and nothing else is allowed here; then whoever handled the signal before goes on.
void report_host_access(int, siginfo_t* info, void*) {
  if (device_memory().holds(info->si_addr)) {
    constexpr char kMessage[] = "emulation: host code uses a pointer to device memory\n";
    [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, kMessage, sizeof kMessage - 1);
  }
  sigaction(SIGSEGV, &handler_before, nullptr);
}

// Again whenever memory becomes protected: a test's runner has handlers of its own.
void watch_host_accesses() {
  struct sigaction action {
  }, before{};
  action.sa_sigaction = report_host_access;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGSEGV, &action, &before);
  if (before.sa_sigaction != report_host_access) handler_before = before;
}

void reserve() {
  if (arena != nullptr) return;
  void* p = mmap(nullptr, kReserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) {
    std::perror("emulation: addresses for device memory");
    std::abort();
  }
  arena = arena_end = static_cast<char*>(p);
  protection_key = pkey_alloc(0, PKEY_DISABLE_ACCESS);
  if (protection_key >= 0 && pkey_mprotect(p, kReserved, PROT_READ | PROT_WRITE, protection_key) != 0) {
    pkey_free(protection_key);
    protection_key = -1;
  }
}

void protect(int how) {
  if (arena_end > arena) mprotect(arena, static_cast<size_t>(arena_end - arena), how);
}

// The block that holds p, or null.
const std::pair<char* const, size_t>* find(const std::map<char*, size_t>& blocks, const void* p) {
  auto next = blocks.upper_bound(static_cast<char*>(const_cast<void*>(p)));
  if (next == blocks.begin()) return nullptr;
  --next;
  return p < next->first + std::max<size_t>(next->second, 1) ? &*next : nullptr;
}

void check_range(const void* p, size_t bytes) {
  if (!is_device(p) || bytes == 0) return;
  std::lock_guard lock(memory);
  const auto* block = find(allocations, p);
  if (block == nullptr || static_cast<const char*>(p) + bytes > block->first + block->second) {
    fault("a copy, fill or library call goes beyond its allocation on the device", "memory", 0);
  }
}

}  // namespace

DeviceAccess::DeviceAccess() {
  std::lock_guard lock(memory);
  if (protection_key >= 0 && own_accesses++ == 0) pkey_set(protection_key, 0);
  if (open_accesses++ == 0 && protection_key < 0) protect(PROT_READ | PROT_WRITE);
}
DeviceAccess::~DeviceAccess() {
  std::lock_guard lock(memory);
  if (protection_key >= 0 && --own_accesses == 0) pkey_set(protection_key, PKEY_DISABLE_ACCESS);
  if (--open_accesses > 0) return;
  if (protection_key < 0) protect(PROT_NONE);
  watch_host_accesses();
}

Range device_memory() {
  reserve();
  return {arena, kReserved};
}
bool is_device(const void* p) {
  return arena != nullptr && p >= arena && p < arena_end;
}
bool is_pinned(const void* p) {
  std::lock_guard lock(memory);
  return find(pinned, p) != nullptr;
}
void device_read(const void* p, size_t bytes) {
  check_range(p, bytes);
  if (observer != nullptr && is_device(p)) observer->whole(p, bytes, false);
}
void device_written(const void* p, size_t bytes) {
  check_range(p, bytes);
  if (observer != nullptr && is_device(p)) observer->whole(p, bytes, true);
}
void check_pointer_argument(const void* p) {
  if (p != nullptr && !is_device(p) && !is_pinned(p)) fault("a kernel argument points to host memory", "launch", 0);
}

}  // namespace emulation

using emulation::is_device;

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  std::lock_guard lock(emulation::memory);
  *total = *free = emulation::kReserved;
  for (const auto& [begin, bytes] : emulation::allocations) *free -= bytes;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {"emulated device", emulation::kReserved, 227 * 1024, 9, 0, 4};
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  std::lock_guard lock(emulation::memory);
  emulation::reserve();
  const size_t size = emulation::round_up(std::max<size_t>(bytes, 1), emulation::kAlignment);
  char* at = emulation::arena;
  for (const auto& [begin, length] : emulation::allocations) {
    if (begin >= at + size + emulation::kGap) break;
    at = begin + emulation::round_up(std::max<size_t>(length, 1), emulation::kAlignment) + emulation::kGap;
  }
  const size_t end = static_cast<size_t>(at - emulation::arena) + size + emulation::kGap;
  if (end > emulation::kReserved) return cudaErrorMemoryAllocation;
  emulation::allocations[at] = bytes;
  emulation::arena_end = std::max(emulation::arena_end, emulation::arena + emulation::round_up(end, 4096));
  if (emulation::open_accesses > 0 && emulation::protection_key < 0) {  // another rank runs
    emulation::protect(PROT_READ | PROT_WRITE);
  }
  emulation::DeviceAccess access;
  std::memset(at, 0xff, bytes);  // not a number, -1
  if (emulation::observer != nullptr) emulation::observer->memory_begins(at, bytes);
  *pointer = at;
  return cudaSuccess;
}

cudaError_t cudaFree(void* pointer) {
  if (pointer == nullptr) return cudaSuccess;
  emulation::synchronize_all();
  std::lock_guard lock(emulation::memory);
  const auto block = emulation::allocations.find(static_cast<char*>(pointer));
  if (block == emulation::allocations.end()) {
    emulation::fault("cudaFree of what cudaMalloc did not give", "memory", 0);
    return cudaErrorInvalidValue;
  }
  emulation::DeviceAccess access;
  std::memset(pointer, 0xff, block->second);
  if (emulation::observer != nullptr) emulation::observer->memory_ends(pointer, block->second);
  emulation::allocations.erase(block);
  return cudaSuccess;
}

cudaError_t cudaMallocHost(void** pointer, size_t bytes) {
  std::lock_guard lock(emulation::memory);
  *pointer = std::malloc(std::max<size_t>(bytes, 1));
  if (*pointer == nullptr) return cudaErrorMemoryAllocation;
  std::memset(*pointer, 0xff, bytes);
  emulation::pinned[static_cast<char*>(*pointer)] = bytes;
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* pointer) {
  emulation::synchronize_all();
  std::lock_guard lock(emulation::memory);
  emulation::pinned.erase(static_cast<char*>(pointer));
  std::free(pointer);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  if (kind != cudaMemcpyDefault && (is_device(to) != to_device || is_device(from) != from_device)) {
    return cudaErrorInvalidValue;
  }
  auto copy = [=](const void* source) {
    emulation::device_read(source, bytes);
    std::memmove(to, source, bytes);
    emulation::device_written(to, bytes);
    return true;
  };
  if (!is_device(from) && !emulation::is_pinned(from)) {  // pageable memory is read before the call returns
    std::vector<char> staged(static_cast<const char*>(from), static_cast<const char*>(from) + bytes);
    emulation::enqueue(stream, "copy", [copy, staged = std::move(staged)] { return copy(staged.data()); });
    return cudaGetLastError();
  }
  emulation::enqueue(stream, "copy", [copy, from] { return copy(from); });
  if (!is_device(to) && !emulation::is_pinned(to)) return cudaStreamSynchronize(stream);
  return cudaGetLastError();
}

cudaError_t cudaMemsetAsync(void* pointer, int value, size_t bytes, cudaStream_t stream) {
  emulation::enqueue(stream, "fill", [=] {
    emulation::device_written(pointer, bytes);
    std::memset(pointer, value, bytes);
    return true;
  });
  return cudaGetLastError();
}
