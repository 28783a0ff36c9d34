// Every collective on a GPU by NCCL, on ranks that are processes: nccl_ranks_test RANKS. Ranks may share a GPU, which
// NCCL allows where they pass for ranks of other hosts. Exit 77 without a GPU.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "comm/nccl_host_group.h"
#include "comm/nccl_world.h"
#include "engine/core/device.h"
#include "engine/core/profiler.h"
#include "engine/core/thread_pool.h"
#include "tests/comm/group_cases.h"

namespace {

using namespace comm;
using test::Device;

double on_grid(int rank, int64_t i) {
  return static_cast<double>(i % 1000 - 500 * rank) / 1024;
}

// A gigabyte a rank, to see what a link gives: seconds of the fastest of five.
double seconds_of_all_reduce(Group& group) {
  const int64_t count = int64_t{1} << 27;
  engine::Buffer buffer(count * 8, Device::cuda);
  double best = 1e9;
  for (int i = 0; i < 5; ++i) {
    engine::device_synchronize();
    group.barrier();
    const double start = engine::monotonic_seconds();
    group.all_reduce_sum(Tensor(buffer.data(), DType::f64, {count}, Device::cuda)).wait();
    engine::device_synchronize();
    best = std::min(best, engine::monotonic_seconds() - start);
  }
  return best;
}

void run(std::unique_ptr<Group> host) {
  const int rank = host->rank();
  choose_devices(*host, {.shared = true});
  std::unique_ptr<Group> group = make_nccl_group(std::move(host));
  group->set_name("world"), group->set_deadline(60);
  for (const Device device : {Device::cuda, Device::cpu}) {
    test::check_reductions(*group, device);
    test::check_uneven_parts(*group, device);
    test::check_all_to_all(*group, device);
    test::check_large_reductions(*group, device);
    test::check_float_sums(*group, device, on_grid);
    test::check_many(*group, device);
  }
  const double seconds = seconds_of_all_reduce(*group);
  if (rank == 0) {
    std::printf("%s, %s, %d ranks: every collective is exact; all-reduce of 1 GiB in %.1f ms\n", nccl_library().c_str(),
                engine::device_name().c_str(), group->size(), seconds * 1e3);
  }
  test::check_splits(std::move(group), Device::cuda);
}

}  // namespace

int main(int argc, char** argv) {
  const int ranks = argc == 2 ? std::atoi(argv[1]) : 1;
  return run_forked_ranks(ranks, [](std::unique_ptr<Group> host) {
    const int rank = host->rank();
    try {
      engine::ThreadPool pool(1);
      pool.make_current();
      const std::string reason = engine::why_no_device();
      if (!reason.empty()) {
        if (rank == 0) std::printf("skipped: %s\n", reason.c_str());
        host->barrier();  // a rank that ends ends the others
        return 77;
      }
      run(std::move(host));
      return 0;
    } catch (const std::exception& error) {
      std::fprintf(stderr, "rank %d: %s\n", rank, error.what());
      return 1;
    }
  });
}
