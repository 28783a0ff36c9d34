// Ranks that are forked processes: the cases of every transport, and what becomes of a rank that fails.
#include "comm/nccl_host_group.h"

#include <signal.h>
#include <unistd.h>

#include "engine/core/thread_pool.h"
#include "tests/comm/group_cases.h"
#include "tests/support/compare.h"

namespace {

using namespace comm;
using test::Device;

// The exit code of `ranks` processes that run a case; one that throws says so.
int code_of(int ranks, const std::function<void(std::unique_ptr<Group>)>& run) {
  return run_forked_ranks(ranks, [&](std::unique_ptr<Group> group) {
    const int rank = group->rank();
    signal(SIGTERM, SIG_DFL);  // not the test runner's
    try {
      engine::ThreadPool pool(1);
      pool.make_current();
      run(std::move(group));
      return 0;
    } catch (const engine::Error& error) {
      std::fprintf(stderr, "rank %d: %s\n", rank, error.what());
      return static_cast<int>(error.code());
    }
  });
}

}  // namespace

TEST_CASE("forked ranks: every collective gives the exact result on 1 to 8 ranks") {
  for (int ranks = 1; ranks <= 8; ++ranks) {
    INFO("ranks ", ranks);
    CHECK(code_of(ranks, [](std::unique_ptr<Group> group) {
            test::check_reductions(*group, Device::cpu);
            test::check_uneven_parts(*group, Device::cpu);
            test::check_all_to_all(*group, Device::cpu);
            test::check_large_reductions(*group, Device::cpu);
            test::check_float_sums(*group, Device::cpu, [](int rank, int64_t i) {
              return 1.0 / static_cast<double>(rank * 3 + i % 11 + 1);
            });
            test::check_many(*group, Device::cpu);
            test::check_splits(std::move(group), Device::cpu);
          }) == 0);
  }
}

TEST_CASE("forked ranks: rows in many pieces") {
  CHECK(code_of(3, [](std::unique_ptr<Group> group) {
          const int rank = group->rank();
          const std::vector<int64_t> send{20000, 10000, 5000}, recv(3, send[static_cast<size_t>(rank)]);
          std::vector<int64_t> in = test::data_of(rank, 35000), out(static_cast<size_t>(3 * recv[0]));
          group
              ->all_to_all_v(Tensor(out.data(), DType::i64, {3 * recv[0], 1}), recv,
                             ConstTensor(in.data(), DType::i64, {35000, 1}), send)
              .wait();
          const int64_t first = rank == 0 ? 0 : rank == 1 ? 20000 : 30000;
          for (int64_t i = 0; i < 3 * recv[0]; ++i) {
            const int from = static_cast<int>(i / recv[0]);
            test::expect(out[static_cast<size_t>(i)] == test::element(from, first + i % recv[0]), "all_to_all_v");
          }
        }) == 0);
}

TEST_CASE("forked ranks: a rank that fails gives its code, and one that is killed counts as lost") {
  auto failing = [](int how) {
    return code_of(3, [how](std::unique_ptr<Group> group) {
      if (group->rank() == 1 && how != 0) raise(how);
      if (group->rank() == 1) throw engine::Error(engine::ExitCode::data, "no text");
      group->barrier();
    });
  };
  CHECK(failing(0) == 3);
  CHECK(failing(SIGKILL) == 9);
}

TEST_CASE("forked ranks: a rank that waits longer than the deadline names whom it misses") {
  CHECK(code_of(3, [](std::unique_ptr<Group> group) {
          group->set_name("world");
          group->barrier();  // all have started
          group->set_deadline(0.5);
          if (group->rank() == 1) return static_cast<void>(usleep(1500000));
          std::string said;
          try {
            group->barrier();
          } catch (const engine::Error& error) {
            said = error.what();
          }
          test::expect(said.find("in barrier of world and nothing comes from ranks 1;") != std::string::npos, said);
        }) == 0);
}
