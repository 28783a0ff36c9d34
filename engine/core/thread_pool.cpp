#include "engine/core/thread_pool.h"

#include <sched.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <string>
#include <utility>

#include "engine/core/error.h"

namespace engine {
namespace {

thread_local ThreadPool* current_pool = nullptr;

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

ThreadPool::ThreadPool(int num_threads) : shares_(static_cast<size_t>(std::max(num_threads, 0))) {
  ENSURE(num_threads >= 1, "a pool needs at least one thread, not ", num_threads);
  spins_ = num_threads <= available_processors() ? 20000 : 0;
  for (int i = 1; i < num_threads; ++i) workers_.emplace_back([this, i] { work(i); });
  // what a thread takes from the heap when it starts is not to fall into a later step
  for (int started = 0; started < num_threads - 1; started = started_.load(std::memory_order_acquire)) {
    started_.wait(started, std::memory_order_acquire);
  }
}

ThreadPool::~ThreadPool() {
  stop_.store(true);
  generation_.fetch_add(1);
  generation_.notify_all();
  for (std::thread& worker : workers_) worker.join();
  if (current_pool == this) current_pool = nullptr;
}

void ThreadPool::make_current() {
  current_pool = this;
}

void ThreadPool::run(int64_t num_tasks, TaskRef task) {
  if (num_tasks <= 0) return;
  if (workers_.empty() || num_tasks == 1) {
    for (int64_t i = 0; i < num_tasks; ++i) task(i);
    return;
  }
  task_ = &task;
  const int64_t threads = num_threads();
  for (int64_t i = 0; i < threads; ++i) {
    shares_[static_cast<size_t>(i)].next.store(num_tasks * i / threads, std::memory_order_relaxed);
    shares_[static_cast<size_t>(i)].end = num_tasks * (i + 1) / threads;
  }
  finished_.store(0, std::memory_order_relaxed);
  const uint32_t generation = generation_.load(std::memory_order_relaxed) + 1;
  gate_.store(static_cast<uint64_t>(generation) << 32, std::memory_order_release);
  generation_.store(generation, std::memory_order_release);
  generation_.notify_all();
  take_tasks(0);
  const int joined = static_cast<int>(gate_.fetch_or(kClosed, std::memory_order_acq_rel) & (kClosed - 1));
  for (int spin = 0, finished; (finished = finished_.load(std::memory_order_acquire)) != joined; ++spin) {
    if (spin < spins_) {
      pause();
    } else {
      finished_.wait(finished, std::memory_order_acquire);
    }
  }
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

void ThreadPool::take_tasks(int thread) {
  const TaskRef& task = *task_;
  for (int turn = 0; turn < num_threads(); ++turn) {
    Share& share = shares_[static_cast<size_t>((thread + turn) % num_threads())];
    for (int64_t i; (i = share.next.fetch_add(1, std::memory_order_relaxed)) < share.end;) {
      try {
        task(i);
      } catch (...) {
        std::lock_guard lock(error_mutex_);
        if (!error_) error_ = std::current_exception();
      }
    }
  }
}

void ThreadPool::work(int thread) {
  uint32_t seen = 0;
  thread_scratch(1);  // registers its destructor, which takes memory
  started_.fetch_add(1, std::memory_order_release);
  started_.notify_one();
  while (true) {
    for (int spin = 0; generation_.load(std::memory_order_acquire) == seen; ++spin) {
      if (spin < spins_) {
        pause();
      } else {
        generation_.wait(seen, std::memory_order_acquire);
      }
    }
    seen = generation_.load(std::memory_order_acquire);
    if (stop_.load(std::memory_order_acquire)) return;
    uint64_t gate = gate_.load(std::memory_order_acquire);
    while ((gate & kClosed) == 0 && !gate_.compare_exchange_weak(gate, gate + 1, std::memory_order_acq_rel)) {
    }
    if ((gate & kClosed) != 0) continue;  // over already
    seen = static_cast<uint32_t>(gate >> 32);
    take_tasks(thread);
    finished_.fetch_add(1, std::memory_order_acq_rel);
    finished_.notify_one();
  }
}

void parallel_for_tasks(int64_t num_tasks, TaskRef task) {
  if (current_pool != nullptr) {
    current_pool->run(num_tasks, task);
  } else {
    for (int64_t i = 0; i < num_tasks; ++i) task(i);
  }
}

int current_threads() {
  return current_pool == nullptr ? 1 : current_pool->num_threads();
}

namespace {

std::atomic<int64_t> all_scratch_bytes{0};

// Pages with a page behind them that may not be touched. Not from the heap: a worker that joins late
// takes its scratch in whatever step that is.
struct Scratch {
  static constexpr int64_t kPage = 4096;
  void* memory = MAP_FAILED;
  int64_t capacity = 0;

  void release() {
    if (memory != MAP_FAILED) munmap(memory, static_cast<size_t>(capacity + kPage));
    all_scratch_bytes.fetch_sub(capacity, std::memory_order_relaxed);
  }
  void reserve(int64_t bytes) {
    release();
    capacity = (bytes + kPage - 1) / kPage * kPage;
    memory = mmap(nullptr, static_cast<size_t>(capacity + kPage), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                  -1, 0);
    if (memory != MAP_FAILED && mprotect(static_cast<char*>(memory) + capacity, kPage, PROT_NONE) == 0) {
      all_scratch_bytes.fetch_add(capacity, std::memory_order_relaxed);
      return;
    }
    capacity = 0;
    throw Error(ExitCode::environment, str("out of memory: a kernel wanted ", bytes, " bytes of scratch"));
  }
  ~Scratch() { release(); }
};

}  // namespace

void* thread_scratch(int64_t bytes) {
  thread_local Scratch scratch;
  if (bytes > scratch.capacity) scratch.reserve(bytes);
  return scratch.memory;
}

int64_t scratch_bytes() {
  return all_scratch_bytes.load(std::memory_order_relaxed);
}

int available_processors() {
  cpu_set_t set;
  int processors = 1;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) processors = std::max(1, CPU_COUNT(&set));
  std::ifstream quota_file("/sys/fs/cgroup/cpu.max");  // "max 100000" or "150000 100000"
  std::string quota;
  double period = 0;
  if (quota_file >> quota >> period && quota != "max" && period > 0) {
    int allowed = static_cast<int>(std::strtod(quota.c_str(), nullptr) / period);
    processors = std::clamp(allowed, 1, processors);
  }
  return processors;
}

}  // namespace engine
