// How long a step takes: what it needs at least on given machines, what is to be expected of them, and what this
// machine does when each op is run alone for a moment.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "comm/parallel_groups.h"
#include "engine/config/cluster.h"
#include "engine/train/step_ops.h"

namespace engine::train {

// Bytes of one call where activations have the layout's size.
double moved_bytes(const StepOp& op, const Layout& layout);
// Seconds of one call at the limits of the machines: arithmetic or memory, whichever is longer; latency and transfer.
double least_seconds(const StepOp& op, const ClusterConfig& cluster, const Layout& layout);

// Seconds of one call over those at the limit, by name of the op.
using Slowdowns = std::map<std::string, double>;

struct StepTime {
  struct Phase {
    std::string name;
    double seconds = 0, least = 0;
  };
  std::vector<Phase> phases;
  double seconds = 0, least = 0;         // of a step
  double all_to_all = 0, reduction = 0;  // bytes that a rank sends in a step
};
// With what was measured, or where an op was not with the efficiencies of the description.
StepTime predict_step(const std::vector<StepOp>& ops, const ClusterConfig& cluster, const Layout& layout,
                      const Slowdowns& measured);

// Seconds of one call of each op, as it is between the others, on average over ranks: rounds over all ops, whose sum is
// that of the middle round and whose shares are those of all. Collective; takes about `seconds` in all and a few
// hundred MB of memory.
std::vector<double> time_ops(const std::vector<StepOp>& ops, comm::ParallelGroups& groups, Device device,
                             double seconds);

struct Machine {
  ClusterConfig description;
  Slowdowns slowdowns;
};
// This machine with so many ranks as threads, all of them at work, or one GPU of it: about `seconds` at the shapes of
// sample_of(config).
Machine measure_machine(const Config& config, const Layout& layout, double seconds);

}  // namespace engine::train
