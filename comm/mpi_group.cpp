#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <exception>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "comm/mpi_session.h"
#include "comm/reduce.h"
#include "comm/waiting.h"
#include "engine/core/buffer.h"
#include "engine/core/error.h"

namespace comm {
namespace {

constexpr uint64_t kSlots = 16;                      // collectives of one group that may be under way at once
constexpr int64_t kMessageBytes = int64_t{1} << 30;  // what is longer goes in several messages: a count is an int
constexpr int64_t kSmallBytes = int64_t{1} << 15;    // up to here an all-reduce gathers everything at once
constexpr int kSpins = 200;                          // looks before a waiting rank leaves its core to others
constexpr int kYields = 4000;                        // and before it sleeps

// What a collective does once all of its messages have come.
enum class Finish { nothing, reduce_part, reduce_all, gather };

class MpiGroup final : public Group {
 public:
  MpiGroup(std::shared_ptr<MpiSession> session, MPI_Comm ranks) : session_(std::move(session)), ranks_(ranks) {
    MPI_Comm_rank(ranks_, &rank_);
    MPI_Comm_size(ranks_, &size_);
    parts_.resize(static_cast<size_t>(size_));
    free_rooms_.reserve(kSlots);
    for (Pending& pending : pending_) {
      pending.group = this;
      pending.begins.resize(static_cast<size_t>(size_) + 1);
    }
  }
  ~MpiGroup() override {
    if (std::uncaught_exceptions() > 0) return;
    std::lock_guard lock(session_->mutex());
    MPI_Comm_free(&ranks_);
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  const char* transport() const override { return "mpi"; }

  std::unique_ptr<Group> split(int color, int key) override {
    barrier();  // all are about to split: other threads wait for the lock no longer than that takes
    MPI_Comm part = MPI_COMM_NULL;
    std::lock_guard lock(session_->mutex());
    check_mpi(MPI_Comm_split(ranks_, color, key, &part), "MPI_Comm_split");
    return make_mpi_group(session_, part);
  }

  void barrier() override {
    Pending& pending = begin("barrier");
    for_others([&](int r) { exchange(pending, r, nullptr, 0, nullptr, 0); });
    pending.wait();
  }

  Work broadcast(Tensor data, int root) override {
    Pending& pending = begin("broadcast");
    const int64_t bytes = bytes_of(data);
    if (rank_ == root) {
      for_others([&](int r) { send(pending, r, data.data, bytes); });
    } else {
      receive(pending, root, data.data, bytes);
    }
    return Work(pending);
  }

  Work all_reduce_sum(Tensor data) override { return all_reduce("all_reduce_sum", data, Reduction::sum); }
  Work all_reduce_max(Tensor data) override { return all_reduce("all_reduce_max", data, Reduction::max); }

  Work all_gather(Tensor out, ConstTensor in) override {
    Pending& pending = begin("all_gather");
    const int64_t bytes = bytes_of(in);
    ENSURE(bytes_of(out) == bytes * size_, "all_gather gives ", bytes * size_, " bytes, not ", bytes_of(out));
    char* to = static_cast<char*>(out.data);
    for_others([&](int r) { exchange(pending, r, to + r * bytes, bytes, in.data, bytes); });
    copy(to + rank_ * bytes, in.data, bytes);
    return Work(pending);
  }

  Work reduce_scatter_sum(Tensor out, ConstTensor in, std::span<const int64_t> begins) override {
    Pending& pending = begin("reduce_scatter_sum");
    std::copy(begins.begin(), begins.end(), pending.begins.begin());
    const int64_t count = pending.count_of(rank_);
    ENSURE(out.num_elements() == count, "this rank's part has ", count, " elements, not ", out.num_elements());
    scatter(pending, out.data, in, Reduction::sum);
    pending.finish = Finish::reduce_part;
    return Work(pending);
  }

  Work all_gather_v(Tensor data, std::span<const int64_t> begins) override {
    Pending& pending = begin("all_gather_v");
    std::copy(begins.begin(), begins.end(), pending.begins.begin());
    gather(pending, data);
    return Work(pending);
  }

  Work all_to_all(Tensor out, ConstTensor in) override {
    Pending& pending = begin("all_to_all");
    const int64_t bytes = bytes_of(in) / size_;
    ENSURE(bytes_of(out) == bytes_of(in), "all_to_all gives ", bytes_of(in), " bytes, not ", bytes_of(out));
    char* to = static_cast<char*>(out.data);
    const char* from = static_cast<const char*>(in.data);
    for_others([&](int r) { exchange(pending, r, to + r * bytes, bytes, from + r * bytes, bytes); });
    copy(to + rank_ * bytes, from + rank_ * bytes, bytes);
    return Work(pending);
  }

  Work all_to_all_v(Tensor out, std::span<const int64_t> recv_rows, ConstTensor in,
                    std::span<const int64_t> send_rows) override {
    Pending& pending = begin("all_to_all_v");
    ENSURE(in.is_contiguous() && out.is_contiguous(), "collectives take contiguous tensors");
    const int64_t row = in.columns() * engine::dtype_bytes(in.dtype);
    ENSURE(row == out.columns() * engine::dtype_bytes(out.dtype), "rows sent and received differ in size");
    char* to = static_cast<char*>(out.data);
    const char* from = static_cast<const char*>(in.data);
    for (int r = 0; r < size_; ++r) {
      const int64_t received = recv_rows[static_cast<size_t>(r)] * row, sent = send_rows[static_cast<size_t>(r)] * row;
      if (r != rank_) {
        exchange(pending, r, to, received, from, sent);
      } else {
        ENSURE(received == sent, "a rank receives from itself what it sends");
        copy(to, from, sent);
      }
      to += received, from += sent;
    }
    return Work(pending);
  }

 private:
  struct Pending final : Work::State {
    void wait() override { group->complete(*this); }
    int64_t count_of(int r) const { return begins[static_cast<size_t>(r) + 1] - begins[static_cast<size_t>(r)]; }

    MpiGroup* group = nullptr;
    const char* name = "";
    uint64_t number = 0;
    bool open = false;
    std::vector<MPI_Request> requests;
    std::vector<MPI_Status> statuses;
    std::vector<std::pair<int, int>> expected;  // of each request: rank and bytes if it receives, -1 if it sends
    Finish finish = Finish::nothing;
    Reduction reduction = Reduction::sum;
    Tensor data;                  // what is reduced or gathered
    void* out = nullptr;          // of a part reduced
    const char* own = nullptr;    // this rank's values of it
    int64_t count = 0;            // its elements
    std::vector<int64_t> begins;  // elements of each rank
    engine::Buffer received;      // the part of every other rank
  };

  static int64_t bytes_of(const ConstTensor& tensor) {
    ENSURE(tensor.is_contiguous(), "collectives take contiguous tensors");
    return tensor.num_elements() * engine::dtype_bytes(tensor.dtype);
  }
  static void copy(void* to, const void* from, int64_t bytes) {
    if (bytes > 0 && to != from) std::memcpy(to, from, static_cast<size_t>(bytes));
  }
  // Room for what a reduction receives: the largest that is free, so that as many are kept as are used at once.
  engine::Buffer take_room(int64_t bytes) {
    engine::Buffer room;
    if (!free_rooms_.empty()) {
      auto largest = std::max_element(free_rooms_.begin(), free_rooms_.end(),
                                      [](const auto& a, const auto& b) { return a.bytes() < b.bytes(); });
      std::swap(*largest, free_rooms_.back());
      room = std::move(free_rooms_.back());
      free_rooms_.pop_back();
    }
    return bytes > room.bytes() ? engine::Buffer(bytes) : std::move(room);
  }

  // Every rank begins with the one after it, so that not all send to the same one at once.
  template <class Visit>
  void for_others(Visit visit) {
    for (int i = 1; i < size_; ++i) visit((rank_ + i) % size_);
  }

  Pending& begin(const char* name) {
    Pending& pending = pending_[++number_ % kSlots];
    if (pending.open) complete(pending);  // nobody waited for it yet
    pending.name = name;
    pending.number = number_;
    pending.open = true;
    pending.finish = Finish::nothing;
    pending.requests.clear();
    pending.expected.clear();
    return pending;
  }

  // Messages of one pair of ranks arrive in order, and all ranks begin collectives in the same order; the tag keeps
  // apart what a rank begins while it is still in an earlier one.
  static int tag_of(const Pending& pending) { return static_cast<int>(pending.number % 32768); }

  void receive(Pending& pending, int from, void* to, int64_t bytes) {
    for (int64_t at = 0; at == 0 || at < bytes; at += kMessageBytes) {
      const int count = static_cast<int>(std::min(kMessageBytes, bytes - at));
      pending.expected.emplace_back(from, count);
      std::lock_guard lock(session_->mutex());
      check_mpi(MPI_Irecv(static_cast<char*>(to) + at, count, MPI_BYTE, from, tag_of(pending), ranks_,
                          &pending.requests.emplace_back()),
                "MPI_Irecv");
    }
  }
  void send(Pending& pending, int to, const void* from, int64_t bytes) {
    for (int64_t at = 0; at == 0 || at < bytes; at += kMessageBytes) {
      const int count = static_cast<int>(std::min(kMessageBytes, bytes - at));
      pending.expected.emplace_back(to, -1);
      std::lock_guard lock(session_->mutex());
      check_mpi(MPI_Isend(static_cast<const char*>(from) + at, count, MPI_BYTE, to, tag_of(pending), ranks_,
                          &pending.requests.emplace_back()),
                "MPI_Isend");
    }
  }
  void exchange(Pending& pending, int other, void* to, int64_t received, const void* from, int64_t sent) {
    receive(pending, other, to, received);
    send(pending, other, from, sent);
  }

  // Part r of `in` to rank r; everybody's values of this rank's part are received beside each other.
  void scatter(Pending& pending, void* out, ConstTensor in, Reduction reduction) {
    const int64_t element = engine::dtype_bytes(in.dtype);
    bytes_of(in);
    const char* from = static_cast<const char*>(in.data);
    pending.reduction = reduction;
    pending.data.dtype = in.dtype;
    pending.out = out;
    pending.count = pending.count_of(rank_);
    pending.own = from + pending.begins[static_cast<size_t>(rank_)] * element;
    const int64_t bytes = pending.count * element;
    pending.received = take_room(bytes * size_);
    for_others([&](int r) {
      exchange(pending, r, pending.received.data() + r * bytes, bytes,
               from + pending.begins[static_cast<size_t>(r)] * element, pending.count_of(r) * element);
    });
  }

  // Part r of `data` from rank r.
  void gather(Pending& pending, Tensor data) {
    const int64_t element = engine::dtype_bytes(data.dtype);
    bytes_of(data);
    char* base = static_cast<char*>(data.data);
    auto at = [&](int r) { return base + pending.begins[static_cast<size_t>(r)] * element; };
    for_others([&](int r) {
      exchange(pending, r, at(r), pending.count_of(r) * element, at(rank_), pending.count_of(rank_) * element);
    });
  }

  Work all_reduce(const char* name, Tensor data, Reduction reduction) {
    Pending& pending = begin(name);
    const int64_t bytes = bytes_of(data), count = data.num_elements();
    pending.data = data;
    if (bytes <= kSmallBytes) {
      pending.reduction = reduction;
      pending.out = data.data;
      pending.own = static_cast<const char*>(data.data);
      pending.count = count;
      pending.received = take_room(bytes * size_);
      for_others([&](int r) { exchange(pending, r, pending.received.data() + r * bytes, bytes, data.data, bytes); });
      pending.finish = Finish::reduce_part;
    } else {
      for (int r = 0; r <= size_; ++r) pending.begins[static_cast<size_t>(r)] = count * r / size_;
      const int64_t begin = pending.begins[static_cast<size_t>(rank_)];
      scatter(pending, static_cast<char*>(data.data) + begin * engine::dtype_bytes(data.dtype), data, reduction);
      pending.finish = Finish::reduce_all;
    }
    return Work(pending);
  }

  void complete(Pending& pending) {
    if (!pending.open) return;
    pending.open = false;
    wait_for_messages(pending);
    if (pending.finish == Finish::nothing) return;
    reduce_part(pending);
    if (pending.finish == Finish::reduce_part) return;
    pending.requests.clear();
    pending.expected.clear();
    gather(pending, pending.data);
    wait_for_messages(pending);
  }

  void wait_for_messages(Pending& pending) {
    Waiting waiting(pending.name, name_, pending.number, waited_seconds_);
    if (pending.statuses.size() < pending.requests.size()) pending.statuses.resize(pending.requests.size());
    const int count = static_cast<int>(pending.requests.size());
    const double start = engine::monotonic_seconds();
    for (int done = 0, looks = 0;; ++looks) {
      {
        std::lock_guard lock(session_->mutex());
        const int code = MPI_Testall(count, pending.requests.data(), &done, pending.statuses.data());
        if (code != MPI_SUCCESS) fail(pending, code);
      }
      if (done) break;
      if (looks > kYields) {
        std::this_thread::sleep_for(std::chrono::microseconds(50));  // a long wait, as for a disk: others may compute
      } else if (looks > kSpins) {
        std::this_thread::yield();
      }
      if (deadline_seconds_ > 0 && engine::monotonic_seconds() - start > deadline_seconds_) miss(pending);
    }
    for (size_t i = 0; i < pending.expected.size(); ++i) {
      const auto [from, bytes] = pending.expected[i];
      if (bytes < 0) continue;
      int received = 0;
      MPI_Get_count(&pending.statuses[i], MPI_BYTE, &received);
      ENSURE(received == bytes, "rank ", from, " sends ", received, " bytes to rank ", rank_, " in ", pending.name,
             ", which expects ", bytes);
    }
  }

  // Names those whose messages have not come.
  [[noreturn]] void miss(const Pending& pending) const {
    std::string ranks;
    std::lock_guard lock(session_->mutex());
    for (size_t i = 0; i < pending.expected.size(); ++i) {
      int done = 0;
      MPI_Request_get_status(pending.requests[i], &done, MPI_STATUS_IGNORE);
      if (done || pending.expected[i].second < 0) continue;
      ranks += engine::str(ranks.empty() ? "" : ", ", pending.expected[i].first);
    }
    throw engine::Error(engine::ExitCode::rank_lost,
                        engine::str("rank ", rank_, " has waited ", deadline_seconds_, " seconds in ", pending.name,
                                    " of ", name_, " and nothing comes from ranks ", ranks,
                                    "; see whether they run, and whether their hosts and this one reach each other"));
  }

  [[noreturn]] void fail(Pending& pending, int code) {
    if (code == MPI_ERR_IN_STATUS) {
      for (size_t i = 0; i < pending.expected.size(); ++i) {
        const int error = pending.statuses[i].MPI_ERROR;
        if (error == MPI_SUCCESS || error == MPI_ERR_PENDING) continue;
        check_mpi(error,
                  engine::str(pending.name, " of rank ", rank_, " with rank ", pending.expected[i].first).c_str());
      }
    }
    check_mpi(code, pending.name);
    throw engine::Error(engine::ExitCode::rank_lost, "a message between ranks failed");
  }

  void reduce_part(Pending& pending) {
    const int64_t bytes = pending.count * engine::dtype_bytes(pending.data.dtype);
    for (int r = 0; r < size_; ++r) {
      parts_[static_cast<size_t>(r)] = r == rank_ ? pending.own : pending.received.data() + r * bytes;
    }
    reduce_ranks(pending.out, parts_, pending.count, pending.data.dtype, pending.reduction);
    free_rooms_.push_back(std::move(pending.received));
  }

  std::shared_ptr<MpiSession> session_;
  MPI_Comm ranks_;
  int rank_ = 0, size_ = 1;
  uint64_t number_ = 0;  // collectives begun so far
  std::array<Pending, kSlots> pending_;
  std::vector<const char*> parts_;  // of one reduction, by rank
  std::vector<engine::Buffer> free_rooms_;
};

}  // namespace

std::unique_ptr<Group> make_mpi_group(std::shared_ptr<MpiSession> session, MPI_Comm ranks) {
  int size = 1;
  MPI_Comm_size(ranks, &size);
  return std::make_unique<MpiGroup>(std::move(session), ranks);
}

}  // namespace comm
