// Every collective, with data that is a pure function of global indices, compared exactly: cases for all transports.
#pragma once

#include <algorithm>
#include <type_traits>
#include <vector>

#include "comm/group.h"
#include "comm/parallel_groups.h"
#include "engine/core/buffer.h"
#include "engine/core/transfer.h"
#include "tests/support/ranks.h"

namespace test {

using comm::ConstTensor;
using comm::DType;
using comm::Group;
using comm::Tensor;
using comm::Work;
using engine::Device;

inline int64_t element(int rank, int64_t i) {
  return rank * 1000003 + i * 7919 + 17;
}

inline std::vector<int64_t> data_of(int rank, int64_t count) {
  std::vector<int64_t> data;
  for (int64_t i = 0; i < count; ++i) data.push_back(element(rank, i));
  return data;
}

// Numbers in memory of the device or the host.
template <class T>
class Shared {
 public:
  Shared(const std::vector<T>& values, Device device)
      : count_(static_cast<int64_t>(values.size())),
        memory_(std::max<int64_t>(count_, 1) * static_cast<int64_t>(sizeof(T)), device) {
    engine::copy(tensor(), ConstTensor(values.data(), kType, {count_}));
  }
  Tensor tensor() const { return tensor({count_}); }
  Tensor tensor(std::initializer_list<int64_t> dims) const {
    return Tensor(const_cast<char*>(memory_.data()), kType, dims, memory_.device());
  }
  std::vector<T> values() const {
    std::vector<T> values(static_cast<size_t>(count_));
    engine::copy(Tensor(values.data(), kType, {count_}), tensor());
    return values;
  }

 private:
  static constexpr DType kType = std::is_same_v<T, double>  ? DType::f64
                                 : std::is_same_v<T, float> ? DType::f32
                                                            : DType::i64;
  int64_t count_;
  engine::Buffer memory_;
};

inline void check_reductions(Group& group, Device device) {
  const int64_t count = 1000;
  const int ranks = group.size();
  const auto mine = data_of(group.rank(), count);
  Shared<int64_t> sum(mine, device), largest(mine, device), root(mine, device), own(mine, device);
  Shared<int64_t> gathered(std::vector<int64_t>(static_cast<size_t>(ranks * count), -1), device);
  // all at once: non-blocking collectives overlap
  Work a = group.all_reduce_sum(sum.tensor()), b = group.all_reduce_max(largest.tensor());
  Work c = group.broadcast(root.tensor(), ranks - 1), d = group.all_gather(gathered.tensor(), own.tensor());
  a.wait(), b.wait(), c.wait(), d.wait();
  const auto sums = sum.values(), most = largest.values(), roots = root.values(), all = gathered.values();
  for (int64_t i = 0; i < count; ++i) {
    int64_t total = 0;
    for (int r = 0; r < ranks; ++r) {
      total += element(r, i);
      expect(all[static_cast<size_t>(r * count + i)] == element(r, i), "all_gather");
    }
    expect(sums[static_cast<size_t>(i)] == total, "all_reduce_sum");
    expect(most[static_cast<size_t>(i)] == element(ranks - 1, i), "all_reduce_max");
    expect(roots[static_cast<size_t>(i)] == element(ranks - 1, i), "broadcast");
  }
}

// Parts in all orders of size, empty ones included.
inline void check_uneven_parts(Group& group, Device device) {
  const int ranks = group.size(), rank = group.rank();
  std::vector<int64_t> begins{0};
  for (int r = 0; r < ranks; ++r) begins.push_back(begins.back() + (r % 3) * 5 + (ranks == 1 ? 5 : 0));
  const int64_t begin = begins[static_cast<size_t>(rank)], end = begins[static_cast<size_t>(rank) + 1];
  Shared<int64_t> in(data_of(rank, begins.back()), device);
  Shared<int64_t> out(std::vector<int64_t>(static_cast<size_t>(end - begin), -1), device);
  group.reduce_scatter_sum(out.tensor(), in.tensor(), begins).wait();
  const auto sums = out.values();
  std::vector<int64_t> own(static_cast<size_t>(begins.back()), -1);
  for (int64_t i = begin; i < end; ++i) {
    int64_t total = 0;
    for (int r = 0; r < ranks; ++r) total += element(r, i);
    expect(sums[static_cast<size_t>(i - begin)] == total, "reduce_scatter_sum");
    own[static_cast<size_t>(i)] = element(rank, i);
  }
  Shared<int64_t> parts(own, device);
  group.all_gather_v(parts.tensor(), begins).wait();
  const auto all = parts.values();
  for (int r = 0; r < ranks; ++r) {
    for (int64_t i = begins[static_cast<size_t>(r)]; i < begins[static_cast<size_t>(r) + 1]; ++i) {
      expect(all[static_cast<size_t>(i)] == element(r, i), "all_gather_v");
    }
  }
}

inline void check_all_to_all(Group& group, Device device) {
  const int ranks = group.size(), rank = group.rank();
  auto rows_between = [](int from, int to) { return int64_t{(from * 3 + to * 5) % 4}; };
  std::vector<int64_t> send, recv, rows;
  for (int r = 0; r < ranks; ++r) {
    send.push_back(rows_between(rank, r));
    recv.push_back(rows_between(r, rank));
    for (int64_t i = 0; i < send.back() * 2; ++i) rows.push_back(element(rank, r * 100 + i));
  }
  int64_t sent = 0, received = 0;
  for (int64_t n : send) sent += n;
  for (int64_t n : recv) received += n;
  Shared<int64_t> in(rows, device), out(std::vector<int64_t>(static_cast<size_t>(received * 2), -1), device);
  group.all_to_all_v(out.tensor({received, 2}), recv, in.tensor({sent, 2}), send).wait();
  const auto got = out.values();
  size_t at = 0;
  for (int r = 0; r < ranks; ++r) {
    for (int64_t i = 0; i < rows_between(r, rank) * 2; ++i)
      expect(got[at++] == element(r, rank * 100 + i), "all_to_all_v");
  }
  Shared<int64_t> counts_in(send, device), counts_out(std::vector<int64_t>(static_cast<size_t>(ranks), -1), device);
  group.all_to_all(counts_out.tensor(), counts_in.tensor()).wait();
  expect(counts_out.values() == recv, "all_to_all");
}

inline void check_large_reductions(Group& group, Device device) {
  const int64_t count = 40001;
  const auto mine = data_of(group.rank(), count);
  Shared<int64_t> sum(mine, device), largest(mine, device);
  Work a = group.all_reduce_sum(sum.tensor()), b = group.all_reduce_max(largest.tensor());
  a.wait(), b.wait();
  const auto sums = sum.values(), most = largest.values();
  for (int64_t i = 0; i < count; ++i) {
    int64_t total = 0;
    for (int r = 0; r < group.size(); ++r) total += element(r, i);
    expect(sums[static_cast<size_t>(i)] == total, "all_reduce_sum");
    expect(most[static_cast<size_t>(i)] == element(group.size() - 1, i), "all_reduce_max");
  }
}

// Sums of f64, where value(rank, i) makes the order of the sum matter or not.
inline void check_float_sums(Group& group, Device device, double (*value)(int rank, int64_t i)) {
  for (const int64_t count : {7, 20000}) {
    std::vector<double> mine(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i) mine[static_cast<size_t>(i)] = value(group.rank(), i);
    Shared<double> all(mine, device), scattered(mine, device);
    group.all_reduce_sum(all.tensor()).wait();
    std::vector<int64_t> begins;
    for (int r = 0; r <= group.size(); ++r) begins.push_back(count * r / group.size());
    const size_t me = static_cast<size_t>(group.rank());
    // in place: nobody else reads a rank's own part
    group
        .reduce_scatter_sum(scattered.tensor().slice_rows(begins[me], begins[me + 1] - begins[me]), scattered.tensor(),
                            begins)
        .wait();
    const auto sums = all.values(), part = scattered.values();
    for (int64_t i = 0; i < count; ++i) {
      double total = value(0, i);
      for (int r = 1; r < group.size(); ++r) total += value(r, i);
      expect(sums[static_cast<size_t>(i)] == total, "all_reduce_sum of f64");
      const bool here = i >= begins[me] && i < begins[me + 1];
      expect(!here || part[static_cast<size_t>(i)] == total, "reduce_scatter_sum of f64");
    }
  }
}

// More collectives than a group has places for, ten at once.
inline void check_many(Group& group, Device device) {
  for (int64_t round = 0; round < 15; ++round) {
    std::vector<Shared<int64_t>> data;
    for (int64_t i = 0; i < 10; ++i) data.emplace_back(std::vector<int64_t>{round * 100 + i + group.rank()}, device);
    std::vector<Work> works;
    for (Shared<int64_t>& one : data) works.push_back(group.all_reduce_sum(one.tensor()));
    for (Work& work : works) work.wait();
    const int64_t ranks = group.size();
    for (size_t i = 0; i < data.size(); ++i) {
      const int64_t total = ranks * (round * 100 + static_cast<int64_t>(i)) + ranks * (ranks - 1) / 2;
      expect(data[i].values()[0] == total, "sum");
    }
  }
}

// The groups of expert parallelism, each with a collective of its own.
inline void check_splits(std::unique_ptr<Group> world, Device device) {
  const int rank = world->rank(), ranks = world->size();
  for (int ep = 1; ep <= ranks; ++ep) {
    if (ranks % ep != 0) continue;
    comm::ParallelGroups groups = comm::make_parallel_groups(world->split(0, rank), ep);
    expect(groups.ep->size() == ep && groups.expert_dp->size() == ranks / ep, "sizes");
    expect(rank == groups.expert_dp->rank() * ep + groups.ep->rank(), "numbering");
    Shared<int64_t> sum({rank}, device);
    groups.ep->all_reduce_sum(sum.tensor()).wait();
    const int64_t first = rank / ep * ep;
    expect(sum.values()[0] == ep * first + ep * (ep - 1) / 2, "sum over ep");
  }
}

}  // namespace test
