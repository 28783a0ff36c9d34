#include "engine/train/step_time.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>

#include "comm/thread_group.h"
#include "engine/core/available_memory.h"
#include "engine/core/buffer.h"
#include "engine/core/device.h"
#include "engine/core/error.h"
#include "engine/core/profiler.h"
#include "engine/ops/device_rates.h"
#include "engine/ops/fma_peak.h"
#include "engine/ops/read_rate.h"

namespace engine::train {
namespace {

const LinkConfig& link_of(Limit limit, const ClusterConfig& cluster, const Layout& layout) {
  // the ranks of ep are neighbours, those of expert_dp are not
  const int64_t reach = limit == Limit::link_ep ? layout.ep_size : layout.ranks;
  return reach <= cluster.ranks_per_node ? cluster.in_node : cluster.between_nodes;
}

double efficiency_of(Limit limit, const EfficiencyConfig& efficiency) {
  switch (limit) {
    case Limit::matmul:
      return efficiency.matmul;
    case Limit::grouped_matmul:
      return efficiency.grouped_matmul;
    case Limit::attention:
      return efficiency.attention;
    case Limit::memory:
      return efficiency.memory;
    default:
      return 1;
  }
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// The largest over ranks, so that all go on alike.
double agree(double value, comm::Group& world) {
  world.all_reduce_max(Tensor(&value, DType::f64, {1})).wait();
  return value;
}

// Ops that share a round: as many as have memory for their operands at once.
std::vector<std::span<const StepOp>> rounds_of(const std::vector<StepOp>& ops, Device device) {
  const double kMostBytes = device == Device::cuda ? 8e9 : 256e6;
  std::vector<std::span<const StepOp>> rounds;
  double bytes = 0;
  for (const StepOp& op : ops) {
    if (rounds.empty() || bytes + op.bytes > kMostBytes) rounds.emplace_back(&op, 0), bytes = 0;
    rounds.back() = {rounds.back().data(), rounds.back().size() + 1};
    bytes += op.bytes;
  }
  return rounds;
}

// A few passes over the ops, each called in proportion to its calls in a step, so that caches hold what they hold in a
// step and ranks wait for each other as often.
class Round {
 public:
  Round(std::span<const StepOp> ops, comm::ParallelGroups& groups, Device device)
      : ops_(ops), world_(*groups.world), device_(device) {
    for (const StepOp& op : ops) {
      runs_.push_back(op.prepare(groups));
      most_calls_ = std::max(most_calls_, op.calls);
    }
  }

  // Seconds of one call of each op in this round, on average over its calls.
  std::vector<double> run() {
    std::vector<double> seconds(ops_.size());
    std::vector<int> calls(ops_.size());
    world_.barrier();
    double start = monotonic_seconds();
    for (int pass = 0; pass < kPasses; ++pass) {
      for (size_t i = 0; i < ops_.size(); ++i) {
        const double share = ops_[i].calls / most_calls_;
        if (pass > 0 && std::floor((pass + 1) * share) <= std::floor(pass * share)) continue;
        call(runs_[i]);
        const double end = monotonic_seconds();
        seconds[i] += (end - start) / calls_together();
        start = end;
        ++calls[i];
      }
    }
    for (size_t i = 0; i < ops_.size(); ++i) seconds[i] /= calls[i];
    return seconds;
  }

 private:
  // So many calls of a GPU's ops are queued at once, as in a step, where the host runs ahead of them.
  int calls_together() const { return device_ == Device::cuda ? 8 : 1; }
  void call(const StepOp::Run& run) const {
    for (int i = 0; i < calls_together(); ++i) run();
    if (device_ == Device::cuda) device_synchronize();
  }

  static constexpr int kPasses = 4;
  std::span<const StepOp> ops_;
  comm::Group& world_;
  Device device_;
  std::vector<StepOp::Run> runs_;
  double most_calls_ = 0;
};

// Seconds of one call of each op of a round, all ranks at once.
std::vector<double> time_round(std::span<const StepOp> ops, comm::ParallelGroups& groups, Device device,
                               double seconds) {
  comm::Group& world = *groups.world;
  Round round(ops, groups, device);
  round.run();
  const double start = monotonic_seconds();
  round.run();
  const double one = agree(monotonic_seconds() - start, world);
  const int64_t count = std::clamp<int64_t>(static_cast<int64_t>(seconds / one), 3, 200);
  std::vector<double> totals, mean(ops.size());
  for (int64_t i = 0; i < count; ++i) {
    std::vector<double> times = round.run();
    world.all_reduce_sum(Tensor(times.data(), DType::f64, {static_cast<int64_t>(times.size())})).wait();
    double total = 0;
    for (size_t op = 0; op < ops.size(); ++op) total += times[op] * ops[op].calls, mean[op] += times[op];
    totals.push_back(total);
  }
  // shares as in all rounds, the sum as in the middle one: what disturbs a round counts for nothing, but what a rank
  // waits for a processor does
  const double scale = median(totals) / std::accumulate(totals.begin(), totals.end(), 0.0) / world.size();
  for (double& time : mean) time *= scale;
  return mean;
}

// Seconds of the fastest of some calls, which other programs disturbed least.
template <class Run>
double fastest(comm::Group& world, int calls, Run run) {
  double best = 0;
  for (int i = 0; i < calls; ++i) {
    world.barrier();
    const double start = monotonic_seconds();
    run();
    const double seconds = agree(monotonic_seconds() - start, world);
    best = i == 0 ? seconds : std::min(best, seconds);
  }
  return best;
}

// A collective without data and one of 4 MiB for each rank.
LinkConfig measure_link(comm::Group& world) {
  LinkConfig link;
  link.latency = fastest(world, 200, [&] { world.barrier(); });
  const int64_t rows = 1 << 10, ranks = world.size();
  const OwnedTensor in(DType::f32, {rows * ranks, 1 << 10}), out(DType::f32, {rows * ranks, 1 << 10});
  const std::vector<int64_t> counts(static_cast<size_t>(ranks), rows);
  const double seconds = fastest(world, 8, [&] { world.all_to_all_v(out, counts, in, counts).wait(); });
  link.bytes_per_second = static_cast<double>((ranks - 1) * rows * 4096) / std::max(1e-9, seconds - link.latency);
  return link;
}

}  // namespace

double moved_bytes(const StepOp& op, const Layout& layout) {
  return op.full_precision ? op.bytes : op.bytes * static_cast<double>(layout.element_bytes) / 4;
}

double least_seconds(const StepOp& op, const ClusterConfig& cluster, const Layout& layout) {
  const double bytes = moved_bytes(op, layout);
  if (op.is_link()) {
    const LinkConfig& link = link_of(op.limit, cluster, layout);
    return link.latency + bytes / link.bytes_per_second;
  }
  return std::max(op.flops / cluster.flops_per_second, bytes / cluster.memory_bytes_per_second);
}

StepTime predict_step(const std::vector<StepOp>& ops, const ClusterConfig& cluster, const Layout& layout,
                      const Slowdowns& measured) {
  StepTime time;
  for (const StepOp& op : ops) {
    const double least = least_seconds(op, cluster, layout);
    const auto found = measured.find(op.name);
    const double one = found != measured.end()
                           ? least * found->second
                           : least / efficiency_of(op.limit, cluster.efficiency) + cluster.op_seconds;
    auto phase =
        std::find_if(time.phases.begin(), time.phases.end(), [&](const auto& p) { return p.name == op.phase; });
    if (phase == time.phases.end()) phase = time.phases.insert(phase, {op.phase, 0, 0});
    phase->seconds += op.calls * one;
    phase->least += op.calls * least;
    time.seconds += op.calls * one;
    time.least += op.calls * least;
    const double sent = op.is_link() ? op.calls * moved_bytes(op, layout) : 0;
    (op.limit == Limit::link_ep ? time.all_to_all : time.reduction) += sent;
  }
  return time;
}

std::vector<double> time_ops(const std::vector<StepOp>& ops, comm::ParallelGroups& groups, Device device,
                             double seconds) {
  std::vector<double> times;
  const std::vector<std::span<const StepOp>> rounds = rounds_of(ops, device);
  for (const std::span<const StepOp> round : rounds) {
    const std::vector<double> some = time_round(round, groups, device, seconds / static_cast<double>(rounds.size()));
    times.insert(times.end(), some.begin(), some.end());
  }
  return times;
}

Machine measure_machine(const Config& config, const Layout& layout, double seconds) {
  const Config sample = sample_of(config, layout.device);
  const bool on_gpu = layout.device == Device::cuda;
  ENSURE(!on_gpu || layout.ranks == 1, "one GPU is measured, not ", layout.ranks);
  Machine machine;
  machine.description.ranks = machine.description.ranks_per_node = layout.ranks;
  machine.description.element_bytes = layout.element_bytes;
  comm::run_thread_ranks(layout.ranks, layout.threads, [&](std::unique_ptr<comm::Group> world) {
    comm::ParallelGroups groups = comm::make_parallel_groups(std::move(world), layout.ep_size);
    const std::vector<StepOp> ops = step_ops(sample, layout);
    const int64_t memory = on_gpu ? device_memory_free() : std::max<int64_t>(0, available_memory()) / layout.ranks;
    groups.world->barrier();
    const double gflops = on_gpu ? ops::measure_product_gflops(layout.activations()) : ops::measure_fma_peak_gflops();
    groups.world->barrier();
    const double read = on_gpu ? ops::measure_copy_bytes_per_second() : ops::measure_read_bytes_per_second();
    const LinkConfig link = groups.world->size() > 1 ? measure_link(*groups.world) : LinkConfig{};
    const std::vector<double> times = time_ops(ops, groups, layout.device, seconds);
    if (groups.world->rank() != 0) return;
    machine.description.name = on_gpu ? device_name() : "this machine";
    machine.description.memory.value = memory;
    machine.description.flops_per_second = gflops * 1e9;
    machine.description.memory_bytes_per_second = read;
    machine.description.in_node = link;
    for (size_t i = 0; i < ops.size(); ++i) {
      machine.slowdowns[ops[i].name] = times[i] / least_seconds(ops[i], machine.description, layout);
    }
  });
  return machine;
}

}  // namespace engine::train
