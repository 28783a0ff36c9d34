// The access checker: kernels are compiled with -fsanitize=thread and linked with the functions below instead of
// the compiler's run-time library, which takes all fibers for one thread and finds nothing.
//
// For every byte the last write and the last read are kept. Two accesses are in order if the same thread made them,
// or a barrier of the block or a collective of the warp lies between, or streams and events order their kernels.
// One read is kept per byte, so a race with an earlier one may go unseen.

#include <dlfcn.h>
#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <set>

#include "tests/emulation/stream.h"

namespace emulation {
namespace {

enum Flag : uint16_t {
  kAllocated = 1,
  kWritten = 2,
  kAtomic = 4,
  kLanes = 8,     // several lanes of the warp have read
  kThreads = 16,  // several warps
  kBlocks = 32,   // several blocks
};

struct Access {
  uint32_t operation, block;
  uint16_t thread, block_barriers, warp_barriers, flags;
};
struct Cell {
  Access write, read;
};
static_assert(sizeof(Cell) == 32);

template <typename T>
T* reserve_array(size_t count) {
  void* p =
      mmap(nullptr, count * sizeof(T), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) {
    std::perror("emulation: memory of the access checker");
    std::abort();
  }
  return static_cast<T*>(p);
}

// Bytes whose cells are usually alike: then `all` is the cell of each, and those of the bytes take no memory.
struct Page {
  static constexpr size_t kBytes = 4096;
  Cell all;
  bool expanded;
};

struct Cells {
  Range memory;
  size_t page_count = (memory.bytes + Page::kBytes - 1) / Page::kBytes;
  Cell* cells = reserve_array<Cell>(page_count * Page::kBytes);
  Page* pages = reserve_array<Page>(page_count);

  // Calls apply(cell) for every byte, or once for a page that is alike and taken whole. All bytes equal afterwards if
  // `same`. Stops when apply returns false.
  template <typename Apply>
  void each(const void* p, size_t bytes, bool same, Apply apply) {
    size_t at = static_cast<size_t>(static_cast<const char*>(p) - memory.begin);
    for (const size_t end = at + bytes; at < end;) {
      Page& page = pages[at / Page::kBytes];
      const size_t page_begin = at / Page::kBytes * Page::kBytes, page_end = page_begin + Page::kBytes;
      const bool whole = at == page_begin && page_end <= end;
      if (whole && !page.expanded) {
        if (!apply(page.all)) return;
        at = page_end;
        continue;
      }
      if (!page.expanded) std::fill_n(cells + page_begin, Page::kBytes, page.all), page.expanded = true;
      for (const size_t stop = std::min(end, page_end); at < stop; ++at) {
        if (!apply(cells[at])) return;
      }
      if (whole && same) page = {cells[page_begin], false};
    }
  }
};

// Null: neither device nor shared memory, but a stack or an argument.
Cells* cells_of(const void* p) {
  static Cells device{device_memory()}, shared{shared_memory()};
  if (device.memory.holds(p)) return &device;
  return shared.memory.holds(p) ? &shared : nullptr;
}

// File and line of an instruction; the debug information knows them.
std::string place_of(void* caller) {
  Dl_info info{};
  if (caller == nullptr || dladdr(caller, &info) == 0) return "?:0";
  char command[512], text[512] = "?:0";
  const auto offset = static_cast<const char*>(caller) - static_cast<const char*>(info.dli_fbase) - 1;
  std::snprintf(command, sizeof command, "addr2line -s -e '%s' 0x%tx", info.dli_fname, offset);
  if (FILE* pipe = popen(command, "r")) {
    if (std::fgets(text, sizeof text, pipe) == nullptr) text[0] = '\0';
    pclose(pipe);
  }
  const std::string place = text;
  return place.substr(0, place.find_first_of(" \n"));
}

void report(const std::string& what, const void* p, void* caller) {
  static std::set<std::pair<void*, std::string>> seen;  // once per instruction, until the faults are taken
  if (first_fault() == nullptr) seen.clear();
  if (!seen.insert({caller, what}).second) return;
  if (caller == nullptr)
    return fault(what + " by a copy or a library", "operation", static_cast<int>(current_operation()));
  const std::string place = place_of(caller);
  const size_t colon = place.find(':');
  const Where& now = *current_thread();
  fault(what + (shared_memory().holds(p) ? " in shared memory" : " in device memory") + ", block " +
            std::to_string(now.block) + " thread " + std::to_string(now.thread),
        place.substr(0, colon).c_str(), std::atoi(place.c_str() + std::min(colon, place.size() - 1) + 1));
}

bool in_order(const Access& before, const Where& now) {
  if (before.operation != now.operation) return happens_before(before.operation, now.operation);
  if ((before.flags & kBlocks) != 0 || before.block != now.block) return false;
  if (before.thread == now.thread && (before.flags & (kLanes | kThreads)) == 0) return true;
  if (before.block_barriers != static_cast<uint16_t>(now.block_barriers)) return true;
  return before.thread / 32 == now.thread / 32 && (before.flags & kThreads) == 0 &&
         before.warp_barriers != static_cast<uint16_t>(now.warp_barriers);
}

// What a read by `now` adds to the reads since the last barrier.
uint16_t merged_readers(const Access& read, const Access& now) {
  if (read.operation != now.operation) return 0;
  if (read.block != now.block || (read.flags & kBlocks) != 0) return kBlocks;
  if (read.block_barriers != now.block_barriers) return 0;
  uint16_t flags = read.flags & kThreads;
  if (read.thread / 32 != now.thread / 32) return kThreads;
  if (read.warp_barriers == now.warp_barriers)
    flags |= (read.flags & kLanes) | (read.thread != now.thread ? kLanes : 0);
  return flags;
}

enum class Kind { read, write, atomic };

void access(const void* p, size_t bytes, Kind kind, const Where& now, void* caller) {
  Cells* cells = cells_of(p);
  if (cells == nullptr) return;
  const bool write = kind != Kind::read;
  cells->each(p, bytes, write, [&](Cell& cell) {
    if ((cell.write.flags & kAllocated) == 0) {
      report(write ? "write outside of any allocation" : "read outside of any allocation", p, caller);
      return false;
    }
    if (kind != Kind::write && (cell.write.flags & kWritten) == 0) {
      report("read of memory that was never written", p, caller);
    }
    const bool both_atomic = kind == Kind::atomic && (cell.write.flags & kAtomic) != 0;
    if (!both_atomic && !in_order(cell.write, now)) {
      const char* scope = cell.write.operation == now.operation ? "race: " : "race between streams: ";
      report(scope + std::string(write ? "write after write" : "read after write"), p, caller);
    }
    if (write && cell.read.operation != 0 && !in_order(cell.read, now)) {
      const char* scope = cell.read.operation == now.operation ? "race: " : "race between streams: ";
      report(scope + std::string("write after read"), p, caller);
    }
    Access made{now.operation,
                now.block,
                static_cast<uint16_t>(now.thread),
                static_cast<uint16_t>(now.block_barriers),
                static_cast<uint16_t>(now.warp_barriers),
                0};
    if (write) {
      made.flags = static_cast<uint16_t>(kAllocated | kWritten | (kind == Kind::atomic ? kAtomic : 0));
      cell = {made, {}};
    } else {
      made.flags = merged_readers(cell.read, made);
      cell.read = made;
    }
    return true;
  });
}

void mark(const void* p, size_t bytes, uint16_t flags) {
  Cells* cells = cells_of(p);
  if (cells == nullptr) return;
  cells->each(p, bytes, true, [flags](Cell& cell) {
    cell = {{0, 0, 0, 0, 0, flags}, {}};
    return true;
  });
}

struct Checker : Observer {
  Checker() { observer = this; }
  void memory_begins(const void* p, size_t bytes) override { mark(p, bytes, kAllocated); }
  void memory_ends(const void* p, size_t bytes) override { mark(p, bytes, 0); }
  void block_begins() override { mark(shared_memory().begin, shared_memory().bytes, 0); }
  void shared_begins(const void* p, size_t bytes) override { mark(p, bytes, kAllocated); }
  void atomic(const void* p, size_t bytes, void* caller) override {
    if (current_thread() != nullptr) access(p, bytes, Kind::atomic, *current_thread(), caller);
  }
  void whole(const void* p, size_t bytes, bool write) override {
    access(p, bytes, write ? Kind::write : Kind::read, {current_operation(), 0, 0, 0, 0}, nullptr);
  }
};
Checker checker;

void plain_access(const void* p, size_t bytes, bool write, void* caller) {
  if (const Where* now = current_thread()) access(p, bytes, write ? Kind::write : Kind::read, *now, caller);
}

}  // namespace
}  // namespace emulation

// What the compiler calls in instrumented code.
extern "C" {
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
void __tsan_read_range(void* p, size_t bytes) {
  emulation::plain_access(p, bytes, false, __builtin_return_address(0));
}
void __tsan_write_range(void* p, size_t bytes) {
  emulation::plain_access(p, bytes, true, __builtin_return_address(0));
}
#define EMULATION_ACCESS(bytes)                                            \
  void __tsan_read##bytes(void* p) {                                       \
    emulation::plain_access(p, bytes, false, __builtin_return_address(0)); \
  }                                                                        \
  void __tsan_write##bytes(void* p) {                                      \
    emulation::plain_access(p, bytes, true, __builtin_return_address(0));  \
  }                                                                        \
  void __tsan_unaligned_read##bytes(void* p) {                             \
    emulation::plain_access(p, bytes, false, __builtin_return_address(0)); \
  }                                                                        \
  void __tsan_unaligned_write##bytes(void* p) {                            \
    emulation::plain_access(p, bytes, true, __builtin_return_address(0));  \
  }
EMULATION_ACCESS(1) EMULATION_ACCESS(2) EMULATION_ACCESS(4) EMULATION_ACCESS(8) EMULATION_ACCESS(16)
}
