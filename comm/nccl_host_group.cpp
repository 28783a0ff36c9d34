#include "comm/nccl_host_group.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

#include "comm/nccl_host_memory.h"
#include "comm/reduce.h"
#include "comm/waiting.h"
#include "engine/core/error.h"

namespace comm {
namespace {

constexpr int kYields = 4000;  // before a waiting rank sleeps

int64_t bytes_of(const ConstTensor& tensor) {
  ENSURE(tensor.device == engine::Device::cpu, "ranks forked on one host share host memory only");
  ENSURE(tensor.is_contiguous(), "collectives take contiguous tensors");
  return tensor.num_elements() * engine::dtype_bytes(tensor.dtype);
}

class ForkedGroup final : public Group {
 public:
  ForkedGroup(HostMemory& memory, int64_t board, int rank, int size)
      : memory_(memory), board_(memory.at(board)), rank_(rank), size_(size), parts_(static_cast<size_t>(size)) {}

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  const char* transport() const override { return "processes"; }

  std::unique_ptr<Group> split(int color, int key) override {
    const int64_t mine[3] = {color, key, memory_.allocate(HostMemory::board_bytes(size_))};  // used if it is the first
    std::vector<int64_t> all(static_cast<size_t>(3 * size_));
    all_gather(Tensor(all.data(), DType::i64, {3 * size_}), ConstTensor(mine, DType::i64, {3})).wait();
    std::vector<std::pair<int64_t, int>> members;  // key, rank
    for (int r = 0; r < size_; ++r) {
      const size_t at = static_cast<size_t>(3 * r);
      if (all[at] == color) members.emplace_back(all[at + 1], r);
    }
    std::sort(members.begin(), members.end());
    const auto own = std::find(members.begin(), members.end(), std::pair<int64_t, int>(key, rank_));
    const int64_t board = all[static_cast<size_t>(3 * members.front().second + 2)];
    return std::make_unique<ForkedGroup>(memory_, board, static_cast<int>(own - members.begin()),
                                         static_cast<int>(members.size()));
  }

  void barrier() override { meet("barrier"); }

  Work broadcast(Tensor data, int root) override {
    const int64_t bytes = bytes_of(data);
    share("broadcast", data.data, rank_ == root ? bytes : 0, bytes, [&](int64_t at) {
      if (rank_ != root) copy(data.data, at, place(root), bytes - at);
    });
    return {};
  }

  Work all_reduce_sum(Tensor data) override { return all_reduce("all_reduce_sum", data, Reduction::sum); }
  Work all_reduce_max(Tensor data) override { return all_reduce("all_reduce_max", data, Reduction::max); }

  Work all_gather(Tensor out, ConstTensor in) override {
    const int64_t bytes = bytes_of(in);
    ENSURE(bytes_of(out) == bytes * size_, "all_gather gives ", bytes * size_, " bytes, not ", bytes_of(out));
    share("all_gather", in.data, bytes, bytes, [&](int64_t at) {
      for (int r = 0; r < size_; ++r) copy(out.data, r * bytes + at, place(r), bytes - at);
    });
    return {};
  }

  Work reduce_scatter_sum(Tensor out, ConstTensor in, std::span<const int64_t> begins) override {
    const int64_t bytes = bytes_of(in), element = engine::dtype_bytes(in.dtype);
    const int64_t first = begins[static_cast<size_t>(rank_)] * element;
    const int64_t last = begins[static_cast<size_t>(rank_) + 1] * element;
    ENSURE(bytes_of(out) == last - first, "this rank's part has ", last - first, " bytes, not ", bytes_of(out));
    share("reduce_scatter_sum", in.data, bytes, bytes, [&](int64_t at) {
      const int64_t from = std::max(at, first), to = std::min(at + HostMemory::kPiece, last);
      if (from >= to) return;
      for (int r = 0; r < size_; ++r) parts_[static_cast<size_t>(r)] = place(r) + (from - at);
      reduce_ranks(static_cast<char*>(out.data) + (from - first), parts_, (to - from) / element, in.dtype,
                   Reduction::sum);
    });
    return {};
  }

  Work all_gather_v(Tensor data, std::span<const int64_t> begins) override {
    const int64_t element = engine::dtype_bytes(data.dtype);
    bytes_of(data);
    auto begin = [&](int r) { return begins[static_cast<size_t>(r)] * element; };
    int64_t most = 0;
    for (int r = 0; r < size_; ++r) most = std::max(most, begin(r + 1) - begin(r));
    share("all_gather_v", static_cast<char*>(data.data) + begin(rank_), begin(rank_ + 1) - begin(rank_), most,
          [&](int64_t at) {
            for (int r = 0; r < size_; ++r) {
              if (r != rank_) copy(data.data, begin(r) + at, place(r), begin(r + 1) - begin(r) - at);
            }
          });
    return {};
  }

  Work all_to_all(Tensor out, ConstTensor in) override {
    ENSURE(bytes_of(out) == bytes_of(in), "all_to_all gives ", bytes_of(in), " bytes, not ", bytes_of(out));
    const int64_t bytes = bytes_of(in) / size_;
    const std::vector<int64_t> each(static_cast<size_t>(size_), bytes);
    exchange("all_to_all", out.data, each, in.data, each);
    return {};
  }

  Work all_to_all_v(Tensor out, std::span<const int64_t> recv_rows, ConstTensor in,
                    std::span<const int64_t> send_rows) override {
    bytes_of(in), bytes_of(out);
    const int64_t row = in.columns() * engine::dtype_bytes(in.dtype);
    ENSURE(row == out.columns() * engine::dtype_bytes(out.dtype), "rows sent and received differ in size");
    std::vector<int64_t> recv(recv_rows.begin(), recv_rows.end()), send(send_rows.begin(), send_rows.end());
    for (int64_t& bytes : recv) bytes *= row;
    for (int64_t& bytes : send) bytes *= row;
    exchange("all_to_all_v", out.data, recv, in.data, send);
    return {};
  }

 private:
  char* place(int rank) const { return board_.pieces + rank * HostMemory::kPiece; }

  // At most one piece of `bytes` bytes.
  static void copy(void* to, int64_t offset, const char* from, int64_t bytes) {
    const int64_t count = std::min(bytes, HostMemory::kPiece);
    if (count > 0) std::memcpy(static_cast<char*>(to) + offset, from, static_cast<size_t>(count));
  }

  // Every rank has come here.
  void meet(const char* name) {
    Waiting waiting(name, name_, number_, waited_seconds_);
    ++met_;
    board_.met[rank_].store(met_, std::memory_order_release);
    const double start = engine::monotonic_seconds();
    for (int r = 0; r < size_; ++r) {
      for (int looks = 0; board_.met[r].load(std::memory_order_acquire) < met_; ++looks) {
        if (looks < kYields) {
          std::this_thread::yield();
          continue;
        }
        std::this_thread::sleep_for(std::chrono::microseconds(50));
        if (deadline_seconds_ > 0 && engine::monotonic_seconds() - start > deadline_seconds_) miss(name);
      }
    }
  }

  [[noreturn]] void miss(const char* name) const {
    std::string ranks;
    for (int r = 0; r < size_; ++r) {
      if (board_.met[r].load() < met_) ranks += engine::str(ranks.empty() ? "" : ", ", r);
    }
    throw engine::Error(engine::ExitCode::rank_lost,
                        engine::str("rank ", rank_, " has waited ", deadline_seconds_, " seconds in ", name, " of ",
                                    name_, " and nothing comes from ranks ", ranks, "; see whether they run"));
  }

  // The ranks' bytes, at most `most`, piece by piece: visit(at) sees those from `at` on at every rank's place.
  template <class Visit>
  void share(const char* name, const void* own, int64_t bytes, int64_t most, Visit visit) {
    ++number_;
    for (int64_t at = 0; at < most; at += HostMemory::kPiece) {
      copy(place(rank_), 0, static_cast<const char*>(own) + at, bytes - at);
      meet(name);
      visit(at);
      meet(name);  // the places may be written again
    }
  }

  // send[r] bytes to rank r, recv[r] bytes from it.
  void exchange(const char* name, void* out, const std::vector<int64_t>& recv, const void* in,
                const std::vector<int64_t>& send) {
    const size_t ranks = static_cast<size_t>(size_);
    std::vector<int64_t> counts(ranks * ranks);
    all_gather(Tensor(counts.data(), DType::i64, {size_ * size_}), ConstTensor(send.data(), DType::i64, {size_}))
        .wait();
    std::vector<int64_t> totals(ranks), begins(ranks), places(ranks);  // begins: of this rank's part of what r sends
    for (size_t r = 0; r < ranks; ++r) {
      for (size_t to = 0; to < ranks; ++to) totals[r] += counts[r * ranks + to];
      for (int to = 0; to < rank_; ++to) begins[r] += counts[r * ranks + static_cast<size_t>(to)];
      if (r > 0) places[r] = places[r - 1] + recv[r - 1];
      const int64_t sent = counts[r * ranks + static_cast<size_t>(rank_)];
      ENSURE(sent == recv[r], "rank ", r, " sends ", sent, " bytes to rank ", rank_, ", which expects ", recv[r]);
    }
    const size_t me = static_cast<size_t>(rank_);
    share(name, in, totals[me], *std::max_element(totals.begin(), totals.end()), [&](int64_t at) {
      for (size_t r = 0; r < ranks; ++r) {
        const int64_t from = std::max(at, begins[r]);
        const int64_t to = std::min(at + HostMemory::kPiece, begins[r] + recv[r]);
        if (from < to) copy(out, places[r] + from - begins[r], place(static_cast<int>(r)) + (from - at), to - from);
      }
    });
  }

  Work all_reduce(const char* name, Tensor data, Reduction reduction) {
    const int64_t bytes = bytes_of(data), element = engine::dtype_bytes(data.dtype);
    for (int r = 0; r < size_; ++r) parts_[static_cast<size_t>(r)] = place(r);
    share(name, data.data, bytes, bytes, [&](int64_t at) {
      reduce_ranks(static_cast<char*>(data.data) + at, parts_, std::min(bytes - at, HostMemory::kPiece) / element,
                   data.dtype, reduction);
    });
    return {};
  }

  HostMemory& memory_;
  HostMemory::Board board_;
  int rank_, size_;
  uint64_t met_ = 0, number_ = 0;
  std::vector<const char*> parts_;  // of one reduction, by rank
};

}  // namespace

std::unique_ptr<Group> make_forked_group(HostMemory& memory, int64_t board, int rank, int size) {
  return std::make_unique<ForkedGroup>(memory, board, rank, size);
}

}  // namespace comm
