// The threads of one rank: fork and join in a few microseconds.
//
// Each rank owns one pool and makes it current on its main thread; kernels split their work into tasks and call
// parallel_for(). Each thread begins with a share of its own, the same part of every op, whose operands its cache may
// still hold, and then takes what others have left. Which thread runs a task is so left open, and a task's result must
// not depend on it.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "engine/core/tensor.h"

namespace engine {

// A reference to a callable taking the number of a task; it must outlive the call.
class TaskRef {
 public:
  template <class F>
  ALWAYS_INLINE TaskRef(F& task)  // NOLINT: converts from a lambda
      : object_(&task), call_([](void* object, int64_t i) { (*static_cast<F*>(object))(i); }) {}
  void operator()(int64_t i) const { call_(object_, i); }

 private:
  void* object_;
  void (*call_)(void*, int64_t);
};

class ThreadPool {
 public:
  // Starts num_threads - 1 workers; the caller of run() is the last one.
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls task(0) to task(num_tasks - 1), each once, and returns when all are done. The first exception of a task
  // is thrown here. A task may not call run() again.
  void run(int64_t num_tasks, TaskRef task);

  // Makes this pool the one that parallel_for() uses on the calling thread.
  void make_current();

 private:
  static constexpr uint64_t kClosed = uint64_t{1} << 31;
  // Tasks from next on that no thread has taken.
  struct alignas(64) Share {
    std::atomic<int64_t> next{0};
    int64_t end = 0;
  };
  void work(int thread);
  void take_tasks(int thread);

  std::vector<std::thread> workers_;
  std::vector<Share> shares_;  // one a thread; that of the caller of run() comes first
  int spins_;                  // how long a worker looks for work before it sleeps; 0 if threads outnumber cores
  const TaskRef* task_ = nullptr;
  // One more in the upper half for every run(); below, whether it is closed and how many workers have joined it. A
  // worker that comes late finds the run closed, and nobody waits for it.
  alignas(64) std::atomic<uint64_t> gate_{kClosed};
  alignas(64) std::atomic<uint32_t> generation_{0};  // the upper half of gate_, to sleep on
  alignas(64) std::atomic<int> finished_{0};         // workers that have left the run
  std::atomic<int> started_{0};                      // workers that wait for runs
  std::atomic<bool> stop_{false};
  std::mutex error_mutex_;
  std::exception_ptr error_;
};

// Calls task(i) for 0 <= i < num_tasks on the current pool, or in order on this thread where there is none.
void parallel_for_tasks(int64_t num_tasks, TaskRef task);
template <class F>
ALWAYS_INLINE void parallel_for(int64_t num_tasks, F task) {
  parallel_for_tasks(num_tasks, TaskRef(task));
}

// Threads of the current pool; 1 where there is none.
int current_threads();

// Splits [0, count) into ranges of `grain` and calls body(begin, end) for each.
template <class F>
ALWAYS_INLINE void parallel_ranges(int64_t count, int64_t grain, F body) {
  auto task = [&](int64_t i) {
    int64_t end = (i + 1) * grain;
    body(i * grain, end < count ? end : count);
  };
  parallel_for_tasks((count + grain - 1) / grain, TaskRef(task));
}

// Memory of the calling thread for the duration of one task, 64-byte aligned, kept for the next one.
// Its content is undefined.
void* thread_scratch(int64_t bytes);

// Of all threads of this process, for reports of memory.
int64_t scratch_bytes();

// Processors this process may use: affinity mask and cgroup quota.
int available_processors();

}  // namespace engine
