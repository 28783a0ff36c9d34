// switchyard bench comm: every collective at several sizes, over one transport.
#include <algorithm>
#include <cstdio>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>

#include "engine/config/units.h"
#include "engine/core/buffer.h"
#include "engine/core/device.h"
#include "engine/core/error.h"
#include "engine/core/profiler.h"
#include "engine/core/thread_pool.h"
#include "tools/bench.h"
#include "tools/device_option.h"
#include "tools/device_ranks.h"

namespace tools {
namespace {

using namespace engine;
using comm::Group;

struct Options {
  Ranks where{.how = {.ranks = 2}};
  double seconds = 0.1;
  bool json = false;
};

// A collective on `elements` numbers of each rank: its run, and the bytes that a rank receives from others.
struct Collective {
  const char* name;
  double received;  // of the bytes of one rank's data
  std::function<std::function<void()>(Group&, Tensor data, Tensor other)> prepare;
};

std::vector<int64_t> even_parts(int64_t count, int ranks) {
  std::vector<int64_t> begins;
  for (int r = 0; r <= ranks; ++r) begins.push_back(count * r / ranks);
  return begins;
}

// `data` has n numbers of type f64, `other` as many times the ranks.
std::vector<Collective> collectives(int ranks) {
  const double others = static_cast<double>(ranks - 1), share = others / ranks;
  return {
      {"barrier", 0, [](Group& g, Tensor, Tensor) { return [&g] { g.barrier(); }; }},
      {"broadcast", 1, [](Group& g, Tensor data, Tensor) { return [&g, data] { g.broadcast(data, 0).wait(); }; }},
      {"all_reduce_sum", others,
       [](Group& g, Tensor data, Tensor) { return [&g, data] { g.all_reduce_sum(data).wait(); }; }},
      {"all_reduce_max", others,
       [](Group& g, Tensor data, Tensor) { return [&g, data] { g.all_reduce_max(data).wait(); }; }},
      {"all_gather", others,
       [](Group& g, Tensor data, Tensor other) { return [&g, data, other] { g.all_gather(other, data).wait(); }; }},
      {"reduce_scatter_sum", share,
       [](Group& g, Tensor data, Tensor other) {
         const auto begins = even_parts(data.rows(), g.size());
         const size_t me = static_cast<size_t>(g.rank());
         const Tensor out = other.slice_rows(0, begins[me + 1] - begins[me]);
         return [&g, data, out, begins] { g.reduce_scatter_sum(out, data, begins).wait(); };
       }},
      {"all_gather_v", share,
       [](Group& g, Tensor data, Tensor) {
         const auto begins = even_parts(data.rows(), g.size());
         return [&g, data, begins] { g.all_gather_v(data, begins).wait(); };
       }},
      {"all_to_all", share,
       [](Group& g, Tensor data, Tensor other) {
         const Tensor out = other.slice_rows(0, data.rows());
         return [&g, data, out] { g.all_to_all(out, data).wait(); };
       }},
      {"all_to_all_v", share,
       [](Group& g, Tensor data, Tensor other) {
         const std::vector<int64_t> rows(static_cast<size_t>(g.size()), data.rows() / g.size());
         const Tensor out = other.slice_rows(0, data.rows());
         return [&g, data, out, rows] { g.all_to_all_v(out, rows, data, rows).wait(); };
       }},
  };
}

// Seconds of one call, the median of five batches.
double time_collective(const Collective& collective, Group& world, Device device, int64_t elements, double seconds) {
  const OwnedTensor data(DType::f64, {elements}, device), other(DType::f64, {elements * world.size()}, device);
  const std::function<void()> once = collective.prepare(world, data, other);
  const auto timed = [&](int64_t calls) {
    world.barrier();
    const double start = monotonic_seconds();
    for (int64_t i = 0; i < calls; ++i) once();
    if (device == Device::cuda) device_synchronize();
    double each = (monotonic_seconds() - start) / static_cast<double>(calls);
    world.all_reduce_max(Tensor(&each, DType::f64, {1})).wait();
    return each;
  };
  timed(2);
  const int64_t calls = std::clamp<int64_t>(static_cast<int64_t>(seconds / 5 / timed(2)), 1, 10000);
  std::vector<double> times;
  for (int batch = 0; batch < 5; ++batch) times.push_back(timed(calls));
  std::sort(times.begin(), times.end());
  return times[2];
}

void print_table(const Options& options, const nlohmann::ordered_json& rows, int ranks) {
  std::printf("%d ranks x %d threads%s; bytes: of one rank's data; GB/s: received from other ranks\n\n", ranks,
              current_threads(), options.where.device == "cuda" ? (" on " + device_name()).c_str() : "");
  std::printf("%-9s %-20s %10s %12s %9s\n", "transport", "collective", "bytes", "us", "GB/s");
  for (const auto& row : rows) {
    std::printf("%-9s %-20s %10s %12.2f %9.2f\n", row["transport"].get<std::string>().c_str(),
                row["collective"].get<std::string>().c_str(), print_bytes(row["bytes"].get<int64_t>()).c_str(),
                row["seconds"].get<double>() * 1e6, row["received_bytes_per_second"].get<double>() * 1e-9);
  }
}

// On every rank; the first one reports.
int run_on_rank(const Options& options, std::unique_ptr<Group> world) {
  if (options.where.device == "cuda" && options.where.how.transport != "nccl") {
    throw Error(ExitCode::usage, "what is on GPUs is moved by NCCL; add --transport nccl, or leave out --device cuda");
  }
  world = on_devices(std::move(world), options.where);
  const Device device = chosen_device(options.where.device);
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (const Collective& collective : collectives(world->size())) {
    for (const int64_t bytes : {int64_t{1} << 10, int64_t{64} << 10, int64_t{1} << 20, int64_t{16} << 20}) {
      if (collective.received == 0 && bytes > 1 << 10) continue;
      const double seconds = time_collective(collective, *world, device, bytes / 8, options.seconds);
      const double received = collective.received * static_cast<double>(bytes);
      rows.push_back({{"transport", world->transport()},
                      {"collective", collective.name},
                      {"bytes", collective.received == 0 ? 0 : bytes},
                      {"seconds", seconds},
                      {"received_bytes_per_second", received / seconds}});
    }
  }
  if (world->rank() != 0) return 0;
  if (!options.json) {
    print_table(options, rows, world->size());
    return 0;
  }
  const nlohmann::ordered_json result = {{"ranks", world->size()},
                                         {"threads", current_threads()},
                                         {"device", options.where.device},
                                         {"collectives", rows}};
  std::printf("%s\n", result.dump().c_str());
  return 0;
}

}  // namespace

void add_bench_comm(CommandLine& bench) {
  auto options = std::make_shared<Options>();
  CommandLine command = bench.add_subcommand("comm", "every collective at several sizes");
  add_rank_options(command, options->where);
  command.add_option("--seconds", options->seconds, "for each collective and size, about").positive();
  command.add_flag("--json", options->json, "one JSON object on stdout");
  command.footer("Example: switchyard bench comm --ranks 4");
  command.runs([options] {
    return run_ranks(options->where.how,
                     [&](std::unique_ptr<Group> world) { return run_on_rank(*options, std::move(world)); });
  });
}

}  // namespace tools
