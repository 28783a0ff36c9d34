// Every collective on every transport that needs no device: tests/comm/group_cases.h.
#include "comm/group.h"

#include "comm/parallel_groups.h"
#include "tests/comm/group_cases.h"
#include "tests/support/ranks.h"

namespace {

using namespace comm;
using engine::DType;
using test::Device;

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
void on_all_transports(void (*check)(Group&, Device)) {
  on_all_transports([check](Group& group) { check(group, Device::cpu); });
}

}  // namespace

TEST_CASE("group: reductions, broadcast and all_gather give the exact result on every rank") {
  CHECK_NOTHROW(on_all_transports(test::check_reductions));
}

TEST_CASE("group: reduce_scatter and all_gather_v take uneven parts, empty ones included") {
  CHECK_NOTHROW(on_all_transports(test::check_uneven_parts));
}

TEST_CASE("group: all_to_all_v delivers every row to its rank in order") {
  CHECK_NOTHROW(on_all_transports(test::check_all_to_all));
}

TEST_CASE("group: a large all-reduce, and sums whose parts do not fit a small one") {
  CHECK_NOTHROW(on_all_transports(test::check_large_reductions));
}

TEST_CASE("group: sums of floats are taken in rank order") {
  CHECK_NOTHROW(on_all_transports([](Group& group) {
    test::check_float_sums(group, Device::cpu,
                           [](int rank, int64_t i) { return 1.0 / static_cast<double>(rank * 3 + i % 11 + 1); });
  }));
}

TEST_CASE("group: more collectives than there are places, and messages nobody waits for at once") {
  CHECK_NOTHROW(on_all_transports(test::check_many));
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
  auto check = [](std::unique_ptr<Group> world) { test::check_splits(std::move(world), Device::cpu); };
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
