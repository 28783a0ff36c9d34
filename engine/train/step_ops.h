// The ops of a training step on one rank, as a list: what each computes and moves, how often it is called, and how to
// run it alone. From it follow the time that a step needs at least, the time that a plan predicts, and `bench ops`.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "comm/parallel_groups.h"
#include "engine/config/config.h"
#include "engine/train/memory_plan.h"

namespace engine::train {

// What limits an op: multiply-adds, memory, or a link between ranks of a group.
enum class Limit { matmul, grouped_matmul, attention, memory, link_ep, link_expert_dp, link_world };

struct StepOp {
  using Run = std::function<void()>;

  std::string name;   // "q_proj forward"
  const char* phase;  // of the step, named as the profiler does
  Limit limit = Limit::memory;
  double calls = 0;             // in a step
  double flops = 0;             // of one call, as all below
  double bytes = 0;             // read or written, each operand once; for a link: sent to other ranks
  bool full_precision = false;  // its numbers stay fp32 and f64 whatever activations are
  // Memory for the operands, and a function that runs the op once. Collective where the op is.
  std::function<Run(comm::ParallelGroups&)> prepare{};

  bool is_link() const { return limit >= Limit::link_ep; }
  bool is_product() const { return limit < Limit::memory; }
};

// The shapes of one step on rank 0, with routing spread evenly.
struct StepShapes {
  StepShapes(const Config& config, const Layout& layout);

  const ModelConfig& model;
  Layout layout;
  int64_t passes;         // of a step
  int64_t T;              // rows of a pass
  int64_t granules;       // of a pass
  int64_t sequences, S;   // of a pass
  int64_t experts;        // of this rank
  int64_t R;              // rows at them in a pass
  int64_t places = 0;     // of an expert for each granule, on a GPU with a capacity (moe/dispatch_plan.h)
  int64_t N;              // rows sent to other ranks' experts in a pass: one for each token and rank
  int64_t dense, expert;  // elements of the flat blocks
  int64_t G;              // granules of a step
  double attention_layers, moe_layers, dense_layers;
};

std::vector<StepOp> step_ops(const Config& config, const Layout& layout);

// The same ops at shapes that a CPU gets through in a moment and that fit into a few hundred MB, to measure what of the
// limits is reached; on a GPU those of the config.
Config sample_of(const Config& config, Device device);

}  // namespace engine::train
