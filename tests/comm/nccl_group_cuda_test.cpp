// NCCL's collectives on device buffers: the cases of every transport (group_cases.h), the order of streams, lost ranks.
// On an emulated device ranks are threads.
#include "comm/nccl_world.h"

#include <atomic>
#include <chrono>
#include <thread>

#include "tests/comm/group_cases.h"
#include "tests/support/device.h"

namespace {

using namespace comm;
using emulation::Streams;
using engine::Device;
using test::Shared;

// A number that is the same whatever the order of the sum.
double on_grid(int rank, int64_t i) {
  return static_cast<double>(i % 1000 - 500 * rank) / 1024;
}

void check_every_collective(Group& group, Device device) {
  test::check_reductions(group, device);
  test::check_uneven_parts(group, device);
  test::check_all_to_all(group, device);
  test::check_large_reductions(group, device);
  test::check_float_sums(group, device, on_grid);
  test::check_many(group, device);
}

// One rank sets how streams run; the others have nothing under way.
void set_order(Group& group, Streams order, uint64_t seed) {
  engine::device_synchronize();
  group.barrier();
  if (group.rank() == 0) emulation::set({.streams = order, .seed = seed});
  group.barrier();
}

// What each of two ranks throws in `body`; empty: nothing. They share a group that has been used before.
std::vector<std::string> errors_of(const std::function<void(Group&)>& body) {
  std::vector<std::string> errors(2);
  emulation::set({.streams = Streams::late});
  run_thread_ranks(2, 1, [&](std::unique_ptr<Group> host) {
    const size_t rank = static_cast<size_t>(host->rank());
    try {
      std::unique_ptr<Group> group = make_nccl_group(std::move(host));
      group->set_name("world");
      test::check_reductions(*group, Device::cuda);
      body(*group);
    } catch (const engine::Error& error) {
      errors[rank] = engine::str(static_cast<int>(error.code()), " ", error.what());
    }
  });
  return errors;
}

void wait_for(const std::atomic<bool>& flag) {
  while (!flag) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

}  // namespace

TEST_CASE("nccl: every collective gives the exact result on 1 to 8 ranks, whatever the order of streams") {
  const uint64_t seed = test::fresh_seed();
  for (int ranks = 1; ranks <= 8; ++ranks) {
    INFO("ranks ", ranks);
    CHECK_NOTHROW(run_thread_ranks(ranks, 1, [&](std::unique_ptr<Group> host) {
      std::unique_ptr<Group> group = make_nccl_group(std::move(host));
      for (const Streams order : {Streams::immediate, Streams::late, Streams::shuffled}) {
        set_order(*group, order, seed);
        check_every_collective(*group, Device::cuda);
      }
      check_every_collective(*group, Device::cpu);
      test::check_splits(std::move(group), Device::cuda);
    }));
  }
}

TEST_CASE("nccl: wait() lets the stream wait, not the host") {
  std::atomic<bool> waited{false};
  const auto errors = errors_of([&](Group& group) {
    Shared<int64_t> sum({group.rank() + 1}, Device::cuda);
    if (group.rank() == 1) wait_for(waited);  // for ever, if rank 0 waits for this one
    group.all_reduce_sum(sum.tensor()).wait();
    waited = true;
    test::expect(sum.values()[0] == 3, "all_reduce_sum");
  });
  CHECK(errors == std::vector<std::string>{"", ""});
}

TEST_CASE("nccl: a rank that waits longer than the deadline says in what, and nothing is read of it") {
  std::atomic<bool> over{false};
  bool read = false;
  const auto errors = errors_of([&](Group& group) {
    Shared<int64_t> sum({group.rank() + 1}, Device::cuda);
    if (group.rank() == 1) return wait_for(over);
    engine::activity().layer = 3, engine::activity().step = 12;
    group.set_deadline(0.2);
    try {
      group.all_reduce_sum(sum.tensor()).wait();
      read = sum.values()[0] != 0;
    } catch (const engine::Error&) {
      over = true;
      CHECK_THROWS_AS(group.barrier(), engine::Error);
      throw;
    }
  });
  CHECK_FALSE(read);
  CHECK(errors[0] ==
        "9 rank 0 has waited 0.2 seconds in all_reduce_sum number 5 of world for layer 3 in step 12 for other ranks; "
        "see whether they run, and whether their hosts and this one reach each other");
}

TEST_CASE("nccl: a rank that goes with an error ends the others' collectives") {
  std::atomic<bool> begun{false};
  const auto errors = errors_of([&](Group& group) {
    if (group.rank() == 1) {
      wait_for(begun);
      throw engine::Error(engine::ExitCode::data, "no text");
    }
    Shared<int64_t> sum({group.rank() + 1}, Device::cuda);
    group.all_reduce_sum(sum.tensor()).wait();
    begun = true;
    engine::device_synchronize();
  });
  CHECK(errors[1] == "3 no text");
  CHECK(errors[0].starts_with("9 rank 0 has lost others in all_reduce_sum number 5 of world: "));
}

TEST_CASE("nccl: what ranks call has to agree") {
  const auto errors = errors_of([&](Group& group) {
    Shared<int64_t> in({1, 2, 3}, Device::cuda), out({0, 0, 0}, Device::cuda);
    const std::vector<int64_t> send{1, 2}, recv{1, 1};
    group.all_to_all_v(out.tensor(), recv, in.tensor(), send).wait();
    engine::device_synchronize();
  });
  CHECK(emulation::take_faults().size() > 0);
}
