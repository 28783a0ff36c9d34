#include "comm/thread_group.h"

#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <exception>
#include <map>
#include <mutex>
#include <new>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "comm/reduce.h"
#include "comm/thread_watch.h"
#include "comm/waiting.h"
#include "engine/core/buffer.h"
#include "engine/core/error.h"
#include "engine/core/thread_pool.h"

namespace comm {
namespace {

using engine::Error;
using engine::ExitCode;

constexpr uint64_t kSlots = 16;  // collectives of one group that may be under way at once

// What one rank posted for one collective.
struct alignas(64) Post {
  const char* in = nullptr;
  const int64_t* counts = nullptr;    // rows for each rank, all_to_all_v only
  std::atomic<uint64_t> posted{0};    // number of the collective, counted from 1
  std::atomic<uint64_t> finished{0};  // its rank needs nobody's buffer any more
};

// The memory that the ranks of one group share.
struct Shared {
  explicit Shared(int ranks, std::shared_ptr<std::atomic<bool>> abort_flag)
      : size(ranks), aborted(std::move(abort_flag)), posts(kSlots * static_cast<size_t>(ranks)) {}
  Post& post(uint64_t number, int rank) {
    return posts[number % kSlots * static_cast<size_t>(size) + static_cast<size_t>(rank)];
  }

  int size;
  std::shared_ptr<std::atomic<bool>> aborted;  // of all groups of the run
  std::vector<Post> posts;
  std::mutex mutex;
  std::map<std::pair<uint64_t, int>, std::shared_ptr<Shared>> children;  // by number of the split and color
};

void wait_until(const std::atomic<uint64_t>& counter, uint64_t number, const std::atomic<bool>& aborted) {
  for (int spin = 0; counter.load(std::memory_order_acquire) < number; ++spin) {
    if (aborted.load(std::memory_order_relaxed)) throw Error(ExitCode::rank_lost, "another rank stopped");
    if (spin > 4000) {
      std::this_thread::sleep_for(std::chrono::microseconds(50));  // a long wait, as for a disk: others may compute
    } else if (spin > 2000) {
      std::this_thread::yield();
    }
  }
}

// A collective of this rank, for whoever watches.
struct Call {
  const char* name;
  const char* group;
  uint64_t number;
  double& waited_seconds;
};

// Completes a collective: waits for the others' posts, pulls, waits until nobody reads this rank's buffer, and then
// runs `after`, which may write to it.
template <class Pull, class After>
class Pending final : public Work::State {
 public:
  Pending(Shared& shared, const Call& call, int rank, Pull pull, After after)
      : shared_(shared), call_(call), rank_(rank), pull_(pull), after_(after) {}
  void wait() override {
    wait_for_all(&Post::posted);
    std::exception_ptr error;
    try {
      pull_();
    } catch (...) {
      error = std::current_exception();  // what this rank posted stays until the others have read it
    }
    shared_.post(call_.number, rank_).finished.store(call_.number, std::memory_order_release);
    wait_for_all(&Post::finished);
    if (error) std::rethrow_exception(error);
    after_();
  }

 private:
  void wait_for_all(std::atomic<uint64_t> Post::*counter) {
    Waiting waiting(call_.name, call_.group, call_.number, call_.waited_seconds);
    for (int r = 0; r < shared_.size; ++r) {
      wait_until(shared_.post(call_.number, r).*counter, call_.number, *shared_.aborted);
    }
  }

  Shared& shared_;
  Call call_;
  int rank_;
  Pull pull_;
  After after_;
};

// Room for the state of one collective.
struct alignas(64) WorkRoom {
  std::byte bytes[256];
};

class ThreadGroup final : public Group {
 public:
  ThreadGroup(std::shared_ptr<Shared> shared, int rank)
      : shared_(std::move(shared)), rank_(rank), posts_(static_cast<size_t>(shared_->size)) {}

  int rank() const override { return rank_; }
  int size() const override { return shared_->size; }
  const char* transport() const override { return "threads"; }

  std::unique_ptr<Group> split(int color, int key) override {
    int64_t mine[2] = {color, key};
    std::vector<int64_t> all(static_cast<size_t>(2 * size()));
    const uint64_t number = number_ + 1;
    all_gather(Tensor(all.data(), DType::i64, {2 * size()}), ConstTensor(mine, DType::i64, {2})).wait();
    int new_rank = 0, new_size = 0;
    for (int r = 0; r < size(); ++r) {
      if (all[static_cast<size_t>(2 * r)] != color) continue;
      ++new_size;
      const int64_t their_key = all[static_cast<size_t>(2 * r + 1)];
      if (their_key < key || (their_key == key && r < rank_)) ++new_rank;
    }
    if (new_size == 1) return make_self_group();
    std::lock_guard lock(shared_->mutex);
    std::shared_ptr<Shared>& child = shared_->children[{number, color}];
    if (!child) child = std::make_shared<Shared>(new_size, shared_->aborted);
    return std::make_unique<ThreadGroup>(child, new_rank);
  }

  void barrier() override {
    start("barrier", nullptr, nullptr, [] {}).wait();
  }

  Work broadcast(Tensor data, int root) override {
    const int64_t bytes = bytes_of(data);
    return start("broadcast", data.data, nullptr, [this, data, root, bytes, number = number_ + 1] {
      if (rank_ != root) copy(data.data, peer(number, root), bytes);
    });
  }

  Work all_reduce_sum(Tensor data) override { return all_reduce("all_reduce_sum", data, Reduction::sum); }
  Work all_reduce_max(Tensor data) override { return all_reduce("all_reduce_max", data, Reduction::max); }

  Work all_gather(Tensor out, ConstTensor in) override {
    const int64_t bytes = bytes_of(in);
    ENSURE(bytes_of(out) == bytes * size(), "all_gather gives ", bytes * size(), " bytes, not ", bytes_of(out));
    return start("all_gather", in.data, nullptr, [this, out, bytes, number = number_ + 1] {
      for (int r = 0; r < size(); ++r) copy(static_cast<char*>(out.data) + r * bytes, peer(number, r), bytes);
    });
  }

  Work reduce_scatter_sum(Tensor out, ConstTensor in, std::span<const int64_t> begins) override {
    const size_t me = static_cast<size_t>(rank_);
    const int64_t begin = begins[me], count = begins[me + 1] - begin;
    ENSURE(out.num_elements() == count, "this rank's part has ", count, " elements, not ", out.num_elements());
    return start("reduce_scatter_sum", in.data, nullptr, [this, out, begin, count, number = number_ + 1] {
      reduce_posts(out.data, out.dtype, number, begin, count, Reduction::sum);
    });
  }

  Work all_gather_v(Tensor data, std::span<const int64_t> begins) override {
    const int64_t element = engine::dtype_bytes(data.dtype);
    return start("all_gather_v", data.data, nullptr, [this, data, element, begins, number = number_ + 1] {
      for (int r = 0; r < size(); ++r) {
        const int64_t begin = begins[static_cast<size_t>(r)] * element;
        const int64_t end = begins[static_cast<size_t>(r) + 1] * element;
        if (r != rank_) copy(static_cast<char*>(data.data) + begin, peer(number, r) + begin, end - begin);
      }
    });
  }

  Work all_to_all(Tensor out, ConstTensor in) override {
    const int64_t bytes = bytes_of(in) / size();
    ENSURE(bytes_of(out) == bytes_of(in), "all_to_all gives ", bytes_of(in), " bytes, not ", bytes_of(out));
    return start("all_to_all", in.data, nullptr, [this, out, bytes, number = number_ + 1] {
      for (int r = 0; r < size(); ++r) {
        copy(static_cast<char*>(out.data) + r * bytes, peer(number, r) + rank_ * bytes, bytes);
      }
    });
  }

  Work all_to_all_v(Tensor out, std::span<const int64_t> recv_rows, ConstTensor in,
                    std::span<const int64_t> send_rows) override {
    ENSURE(in.is_contiguous() && out.is_contiguous(), "collectives take contiguous tensors");
    const int64_t row = in.columns() * engine::dtype_bytes(in.dtype);
    ENSURE(row == out.columns() * engine::dtype_bytes(out.dtype), "rows sent and received differ in size");
    return start("all_to_all_v", in.data, send_rows.data(),
                 [this, out, row, recv_rows, number = number_ + 1] { pull_rows(out, row, recv_rows, number); });
  }

 private:
  static int64_t bytes_of(const ConstTensor& tensor) {
    ENSURE(tensor.is_contiguous(), "collectives take contiguous tensors");
    return tensor.num_elements() * engine::dtype_bytes(tensor.dtype);
  }
  static void copy(void* to, const void* from, int64_t bytes) {
    if (bytes > 0 && to != from) std::memcpy(to, from, static_cast<size_t>(bytes));
  }
  const char* peer(uint64_t number, int rank) const { return shared_->post(number, rank).in; }

  struct Nothing {
    void operator()() const {}
  };

  // Posts the next collective.
  template <class Pull, class After = Nothing>
  Work start(const char* name, const void* in, const int64_t* counts, Pull pull, After after = {}) {
    using State = Pending<Pull, After>;
    static_assert(sizeof(State) <= sizeof(WorkRoom) && std::is_trivially_destructible_v<Pull> &&
                  std::is_trivially_destructible_v<After>);
    const uint64_t number = ++number_;
    if (number > kSlots) {  // the slot's earlier collective must be over everywhere
      for (int r = 0; r < size(); ++r) {
        wait_until(shared_->post(number, r).finished, number - kSlots, *shared_->aborted);
      }
    }
    Post& post = shared_->post(number, rank_);
    post.in = static_cast<const char*>(in);
    post.counts = counts;
    post.posted.store(number, std::memory_order_release);
    return Work(*new (&rooms_[number % kSlots])
                    State(*shared_, {name, name_, number, waited_seconds_}, rank_, pull, after));
  }

  Work all_reduce(const char* name, Tensor data, Reduction reduction) {
    const int64_t bytes = bytes_of(data);
    return start(
        name, data.data, nullptr,
        [this, data, bytes, reduction, number = number_ + 1] {
          if (bytes > reduced_.bytes()) reduced_ = engine::Buffer(bytes);
          reduce_posts(reduced_.data(), data.dtype, number, 0, data.num_elements(), reduction);
        },
        [this, data, bytes] { copy(data.data, reduced_.data(), bytes); });
  }

  void reduce_posts(void* out, DType dtype, uint64_t number, int64_t begin, int64_t count, Reduction reduction) {
    const int64_t offset = begin * engine::dtype_bytes(dtype);
    for (int r = 0; r < size(); ++r) posts_[static_cast<size_t>(r)] = peer(number, r) + offset;
    reduce_ranks(out, posts_, count, dtype, reduction);
  }

  void pull_rows(Tensor out, int64_t row, std::span<const int64_t> recv_rows, uint64_t number) {
    char* to = static_cast<char*>(out.data);
    for (int r = 0; r < size(); ++r) {
      const Post& post = shared_->post(number, r);
      int64_t skipped = 0;
      for (int before = 0; before < rank_; ++before) skipped += post.counts[before];
      const int64_t rows = recv_rows[static_cast<size_t>(r)];
      ENSURE(post.counts[rank_] == rows, "rank ", r, " sends ", post.counts[rank_], " rows to rank ", rank_,
             ", which expects ", rows);
      copy(to, post.in + skipped * row, rows * row);
      to += rows * row;
    }
  }

  std::shared_ptr<Shared> shared_;
  int rank_;
  uint64_t number_ = 0;  // collectives started so far
  std::array<WorkRoom, kSlots> rooms_;
  std::vector<const char*> posts_;  // of one collective, by rank
  engine::Buffer reduced_;          // of an all-reduce, until nobody reads the data it replaces
};

}  // namespace

void run_thread_ranks(int num_ranks, int threads_per_rank, const std::function<void(std::unique_ptr<Group>)>& body,
                      const WatchLimits* watch) {
  auto aborted = std::make_shared<std::atomic<bool>>(false);
  auto shared = std::make_shared<Shared>(num_ranks, aborted);
  std::vector<engine::Activity> activities(static_cast<size_t>(num_ranks));
  std::mutex error_mutex;
  std::exception_ptr first_error;
  auto run_rank = [&](int rank) {
    try {
      engine::set_activity(activities[static_cast<size_t>(rank)]);
      engine::ThreadPool pool(threads_per_rank);
      pool.make_current();
      body(num_ranks == 1 ? make_self_group() : std::make_unique<ThreadGroup>(shared, rank));
    } catch (...) {
      std::lock_guard lock(error_mutex);
      if (!first_error) first_error = std::current_exception();
      aborted->store(true);
    }
    activities[static_cast<size_t>(rank)].in_step = false;
  };
  std::unique_ptr<ThreadWatch> watching;
  if (watch != nullptr) watching = std::make_unique<ThreadWatch>(activities, *watch);
  std::vector<std::thread> ranks;
  for (int rank = 0; rank < num_ranks; ++rank) ranks.emplace_back(run_rank, rank);
  for (std::thread& rank : ranks) rank.join();
  watching.reset();
  if (first_error) std::rethrow_exception(first_error);
}

}  // namespace comm
