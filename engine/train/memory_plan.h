// The memory of one rank by category: what a config will take, found out by building its model without memory, and what
// a trainer has taken.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/config/config.h"
#include "engine/core/tensor.h"

namespace engine::train {

class Trainer;

struct MemoryUse {
  int64_t weights = 0;
  int64_t packed = 0;       // copies of weights for products: laid out for them, or in bf16
  int64_t gradients = 0;    // chains of granules that outlive a kernel, and of a tied embedding
  int64_t sums = 0;         // exact, f64; none with one granule
  int64_t moments = 0;      // of AdamW, this rank's share
  int64_t activations = 0;  // of one pass, with what ops share
  int64_t expert_rows = 0;  // on their way to experts, at them, and back
  int64_t scratch = 0;      // of kernels
  int64_t tokens = 0;       // of a pass, and lists of where rows go

  struct Part {
    const char* name;
    int64_t bytes;
  };
  std::vector<Part> parts() const;
  int64_t total() const;
};

struct Layout {
  int ranks = 1;
  int64_t ep_size = 1;
  int threads = 1;  // of each rank
  Device device = Device::cpu;
  int64_t element_bytes = 4;  // of activations and packed weights: 4, or on a GPU 2

  DType activations() const { return element_bytes == 4 ? DType::f32 : DType::bf16; }
};

// Of rank 0; others hold at most an expert less or a parameter block more.
MemoryUse plan_memory(const Config& config, const Layout& layout);

// After a step; scratch is that of the whole process.
MemoryUse memory_in_use(Trainer& trainer);

// Weights, optimizer states and what else a checkpoint holds, all ranks together.
int64_t checkpoint_bytes(const ModelConfig& model);

}  // namespace engine::train
