// Collects ops of a step, with operands to run each of them alone; for step_ops*.cpp.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/core/buffer.h"
#include "engine/core/gradient.h"
#include "engine/ops/matmul.h"
#include "engine/train/step_ops.h"

namespace engine::train {

// Memory of one op on its device, with numbers of ordinary size in it.
class Operands {
 public:
  Operands(Device device, DType activations) : device_(device), activations_(activations) {}

  Tensor rows(std::initializer_list<int64_t> dims);                     // as activations are stored
  Tensor f32(std::initializer_list<int64_t> dims, float least = -0.5);  // from there to one more
  Tensor packed(int64_t N, int64_t D);                                  // a weight as the forward product takes it
  Tensor i32(std::initializer_list<int64_t> dims, int64_t below);       // 0, 1, ... in turn
  WeightGradient gradient(std::initializer_list<int64_t> dims);
  // Offsets of `parts` equal parts of `rows`; in host memory.
  const int64_t* offsets(int64_t rows, int64_t parts);

 private:
  Tensor zeros(DType dtype, std::initializer_list<int64_t> dims);

  Device device_;
  DType activations_;
  std::deque<OwnedTensor> tensors_;
  std::deque<std::vector<int64_t>> offsets_;
};

class StepOpList {
 public:
  explicit StepOpList(const StepShapes& shapes) : shapes_(shapes) {}

  // `make` is called with fresh operands and returns the function that runs the op.
  template <class Make>
  void add(StepOp op, Make make) {
    if (op.calls <= 0) return;
    op.full_precision = full_precision_;
    op.prepare = [make, layout = shapes_.layout](comm::ParallelGroups& groups) {
      auto operands = std::make_shared<Operands>(layout.device, layout.activations());
      auto run = make(*operands, groups);
      return StepOp::Run([operands, run]() mutable { run(); });
    };
    ops_.push_back(std::move(op));
  }

  // Forward product, input gradient, weight gradient and the packing of a weight [N, D] that `layers` layers have, for
  // `calls` passes of so many rows.
  struct Linear {
    std::string name;
    const char *forward, *backward;  // phases
    int64_t rows, N, D;
    double calls, layers;
    int64_t granules;
    bool f32 = false;         // all of it, as in the router
    bool f32_result = false;  // what it gives, as in the head
  };
  void linear(const Linear& linear);
  // On a GPU nothing: weights are converted once a step.
  void pack(const std::string& name, const char* phase, int64_t N, int64_t D, double weights);
  // RMSNorm of `rows` rows, forward and backward.
  void norm(const std::string& name, const char* forward, const char* backward, int64_t rows, int64_t D, double calls);
  void swiglu(const std::string& name, const char* forward, const char* backward, int64_t rows, int64_t F,
              double calls);

  // From here on ops are on weights, their gradients and moments.
  void begin_full_precision() { full_precision_ = true; }

  const StepShapes& shapes() const { return shapes_; }
  std::vector<StepOp> take() { return std::move(ops_); }

 private:
  const StepShapes& shapes_;
  std::vector<StepOp> ops_;
  bool full_precision_ = false;
};

void add_attention_ops(StepOpList& list);
void add_moe_ops(StepOpList& list);
void add_exchange_ops(StepOpList& list);
void add_update_ops(StepOpList& list, const Config& config);

}  // namespace engine::train
