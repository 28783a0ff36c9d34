// Every collective on every transport, with data that is a pure function of global indices, compared exactly.
#include "comm/group.h"

#include "comm/parallel_groups.h"
#include "tests/support/ranks.h"

namespace {

using namespace comm;
using engine::DType;
using test::expect;

int64_t element(int rank, int64_t i) {
  return rank * 1000003 + i * 7919 + 17;
}

std::vector<int64_t> data_of(int rank, int64_t count) {
  std::vector<int64_t> data;
  for (int64_t i = 0; i < count; ++i) data.push_back(element(rank, i));
  return data;
}
Tensor view(std::vector<int64_t>& data) {
  return Tensor(data.data(), DType::i64, {static_cast<int64_t>(data.size())});
}

// Runs a case on a group of one and on 1 to 8 ranks as threads, or on the ranks of an MPI job.
void on_all_transports(const std::function<void(Group&)>& run) {
  if (test::on_mpi()) return test::run_mpi_ranks([&](std::unique_ptr<Group> group) { run(*group); });
  auto self = make_self_group();
  run(*self);
  for (int ranks = 1; ranks <= 8; ++ranks) {
    INFO("ranks ", ranks);
    run_thread_ranks(ranks, 1, [&](std::unique_ptr<Group> group) { run(*group); });
  }
}

}  // namespace

TEST_CASE("group: reductions, broadcast and all_gather give the exact result on every rank") {
  CHECK_NOTHROW(on_all_transports([](Group& group) {
    const int64_t count = 1000;
    const int ranks = group.size();
    auto sum = data_of(group.rank(), count), largest = sum, root = sum;
    std::vector<int64_t> gathered(static_cast<size_t>(ranks * count), -1);
    auto mine = data_of(group.rank(), count);
    // all at once: non-blocking collectives overlap
    Work a = group.all_reduce_sum(view(sum)), b = group.all_reduce_max(view(largest));
    Work c = group.broadcast(view(root), ranks - 1), d = group.all_gather(view(gathered), view(mine));
    a.wait(), b.wait(), c.wait(), d.wait();
    for (int64_t i = 0; i < count; ++i) {
      int64_t total = 0;
      for (int r = 0; r < ranks; ++r) {
        total += element(r, i);
        expect(gathered[static_cast<size_t>(r * count + i)] == element(r, i), "all_gather");
      }
      expect(sum[static_cast<size_t>(i)] == total, "all_reduce_sum");
      expect(largest[static_cast<size_t>(i)] == element(ranks - 1, i), "all_reduce_max");
      expect(root[static_cast<size_t>(i)] == element(ranks - 1, i), "broadcast");
    }
  }));
}

TEST_CASE("group: reduce_scatter and all_gather_v take uneven parts, empty ones included") {
  CHECK_NOTHROW(on_all_transports([](Group& group) {
    const int ranks = group.size(), rank = group.rank();
    std::vector<int64_t> begins{0};
    for (int r = 0; r < ranks; ++r) begins.push_back(begins.back() + (r % 3) * 5 + (ranks == 1 ? 5 : 0));
    auto in = data_of(rank, begins.back());
    const int64_t begin = begins[static_cast<size_t>(rank)], end = begins[static_cast<size_t>(rank) + 1];
    std::vector<int64_t> out(static_cast<size_t>(end - begin), -1);
    group.reduce_scatter_sum(view(out), view(in), begins).wait();
    std::vector<int64_t> all(static_cast<size_t>(begins.back()), -1);
    for (int64_t i = begin; i < end; ++i) {
      int64_t total = 0;
      for (int r = 0; r < ranks; ++r) total += element(r, i);
      expect(out[static_cast<size_t>(i - begin)] == total, "reduce_scatter_sum");
      all[static_cast<size_t>(i)] = element(rank, i);
    }
    group.all_gather_v(view(all), begins).wait();
    for (int r = 0; r < ranks; ++r) {
      for (int64_t i = begins[static_cast<size_t>(r)]; i < begins[static_cast<size_t>(r) + 1]; ++i) {
        expect(all[static_cast<size_t>(i)] == element(r, i), "all_gather_v");
      }
    }
  }));
}

TEST_CASE("group: all_to_all_v delivers every row to its rank in order") {
  CHECK_NOTHROW(on_all_transports([](Group& group) {
    const int ranks = group.size(), rank = group.rank();
    auto rows_between = [](int from, int to) { return int64_t{(from * 3 + to * 5) % 4}; };
    std::vector<int64_t> send, recv, in;
    for (int r = 0; r < ranks; ++r) {
      send.push_back(rows_between(rank, r));
      recv.push_back(rows_between(r, rank));
      for (int64_t i = 0; i < send.back() * 2; ++i) in.push_back(element(rank, r * 100 + i));
    }
    int64_t sent = 0, received = 0;
    for (int64_t rows : send) sent += rows;
    for (int64_t rows : recv) received += rows;
    std::vector<int64_t> out(static_cast<size_t>(received * 2), -1);
    group
        .all_to_all_v(Tensor(out.data(), DType::i64, {received, 2}), recv, Tensor(in.data(), DType::i64, {sent, 2}),
                      send)
        .wait();
    size_t at = 0;
    for (int r = 0; r < ranks; ++r) {
      for (int64_t i = 0; i < rows_between(r, rank) * 2; ++i)
        expect(out[at++] == element(r, rank * 100 + i), "all_to_all_v");
    }
    std::vector<int64_t> counts(static_cast<size_t>(ranks), -1);
    group.all_to_all(view(counts), view(send)).wait();
    expect(counts == recv, "all_to_all");
  }));
}

TEST_CASE("group: a large all-reduce, and sums whose parts do not fit a small one") {
  CHECK_NOTHROW(on_all_transports([](Group& group) {
    const int64_t count = 40001;
    auto sum = data_of(group.rank(), count), largest = sum;
    Work a = group.all_reduce_sum(view(sum)), b = group.all_reduce_max(view(largest));
    a.wait(), b.wait();
    for (int64_t i = 0; i < count; ++i) {
      int64_t total = 0;
      for (int r = 0; r < group.size(); ++r) total += element(r, i);
      expect(sum[static_cast<size_t>(i)] == total, "all_reduce_sum");
      expect(largest[static_cast<size_t>(i)] == element(group.size() - 1, i), "all_reduce_max");
    }
  }));
}

TEST_CASE("group: sums of floats are taken in rank order") {
  CHECK_NOTHROW(on_all_transports([](Group& group) {
    for (const int64_t count : {7, 20000}) {
      auto value = [](int rank, int64_t i) { return 1.0 / static_cast<double>(rank * 3 + i % 11 + 1); };
      std::vector<double> all(static_cast<size_t>(count));
      for (int64_t i = 0; i < count; ++i) all[static_cast<size_t>(i)] = value(group.rank(), i);
      std::vector<double> scattered = all;
      group.all_reduce_sum(Tensor(all.data(), DType::f64, {count})).wait();
      std::vector<int64_t> begins;
      for (int r = 0; r <= group.size(); ++r) begins.push_back(count * r / group.size());
      const size_t me = static_cast<size_t>(group.rank());
      const int64_t mine = begins[me + 1] - begins[me];
      // in place: nobody else reads a rank's own part
      group
          .reduce_scatter_sum(Tensor(scattered.data() + begins[me], DType::f64, {mine}),
                              ConstTensor(scattered.data(), DType::f64, {count}), begins)
          .wait();
      for (int64_t i = 0; i < count; ++i) {
        double total = value(0, i);
        for (int r = 1; r < group.size(); ++r) total += value(r, i);
        expect(all[static_cast<size_t>(i)] == total, "all_reduce_sum of f64");
        const bool here = i >= begins[me] && i < begins[me + 1];
        expect(!here || scattered[static_cast<size_t>(i)] == total, "reduce_scatter_sum of f64");
      }
    }
  }));
}

TEST_CASE("group: more collectives than there are places, and messages nobody waits for at once") {
  CHECK_NOTHROW(on_all_transports([](Group& group) {
    std::vector<std::vector<int64_t>> data(10);
    for (int64_t round = 0; round < 5; ++round) {
      std::vector<Work> works;
      for (size_t i = 0; i < data.size(); ++i) {
        data[i] = {round * 100 + static_cast<int64_t>(i) + group.rank()};
        works.push_back(group.all_reduce_sum(view(data[i])));
      }
      for (Work& work : works) work.wait();
      const int64_t ranks = group.size();
      for (size_t i = 0; i < data.size(); ++i) {
        expect(data[i][0] == ranks * (round * 100 + static_cast<int64_t>(i)) + ranks * (ranks - 1) / 2, "sum");
      }
    }
  }));
}

TEST_CASE("group: rows that one rank sends and another does not expect are an error, not a wrong result") {
  if (test::on_mpi()) return;  // there it ends the job
  CHECK_THROWS_WITH_AS(run_thread_ranks(2, 1,
                                        [](std::unique_ptr<Group> group) {
                                          std::vector<int64_t> in(3), out(3);
                                          const std::vector<int64_t> send{1, 2}, recv{1, 1};
                                          group
                                              ->all_to_all_v(Tensor(out.data(), DType::i64, {3, 1}), recv,
                                                             Tensor(in.data(), DType::i64, {3, 1}), send)
                                              .wait();
                                        }),
                       doctest::Contains("which expects 1"), engine::Error);
}

TEST_CASE("group: split makes the groups of expert parallelism") {
  auto check = [](std::unique_ptr<Group> world) {
    const int rank = world->rank(), ranks = world->size();
    for (int ep = 1; ep <= ranks; ++ep) {
      if (ranks % ep != 0) continue;
      ParallelGroups groups = make_parallel_groups(world->split(0, rank), ep);
      expect(groups.ep->size() == ep && groups.expert_dp->size() == ranks / ep, "sizes");
      expect(rank == groups.expert_dp->rank() * ep + groups.ep->rank(), "numbering");
      std::vector<int64_t> sum{rank};
      groups.ep->all_reduce_sum(view(sum)).wait();
      const int64_t first = rank / ep * ep;
      expect(sum[0] == ep * first + ep * (ep - 1) / 2, "sum over ep");
    }
  };
  if (test::on_mpi()) return test::run_mpi_ranks(check);
  for (int ranks = 1; ranks <= 8; ++ranks) CHECK_NOTHROW(run_thread_ranks(ranks, 1, check));
  CHECK_THROWS_WITH_AS(make_parallel_groups(make_self_group(), 2),
                       "parallel.ep_size is 2 but must divide the 1 ranks: 1", engine::Error);
}

TEST_CASE("group: an error on one rank ends the others and is the one reported") {
  if (test::on_mpi()) return;
  CHECK_THROWS_WITH_AS(run_thread_ranks(4, 1,
                                        [](std::unique_ptr<Group> group) {
                                          if (group->rank() == 2)
                                            throw engine::Error(engine::ExitCode::data, "no text");
                                          group->barrier();
                                        }),
                       "no text", engine::Error);
}

TEST_CASE("group: experts are spread evenly, the first ranks hold one more") {
  int64_t expected = 0;
  for (int rank = 0; rank < 3; ++rank) {
    ExpertRange range = experts_of_rank(8, rank, 3);
    CHECK(range.begin == expected);
    CHECK(range.end - range.begin == (rank < 2 ? 3 : 2));
    expected = range.end;
  }
  CHECK(expected == 8);
}
