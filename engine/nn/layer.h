// Layer: something between two tensors of the residual width, with its gradient.
#pragma once

#include <cstdint>
#include <span>

#include "engine/core/arena.h"
#include "engine/core/gradient.h"
#include "engine/core/profiler.h"

namespace engine::nn {

// A sequence whose keys and values are kept, and how many of them there are before a pass.
struct KeptSequence {
  int64_t slot = 0, position = 0;
};

// One pass of whole sequences through the model, the same on every layer.
//
// Rows are sequence-major: row b * seq_len + s is position s of sequence b. In generation the rows are new tokens
// that continue sequences whose earlier keys and values are kept: row b * seq_len + s is then position
// kept[b].position + s of the sequence in kept[b].slot.
struct Pass {
  const Arena* arena = nullptr;
  Profiler* profiler = nullptr;
  int64_t num_sequences = 0;
  int64_t seq_len = 0;
  const KeptSequence* kept = nullptr;  // [num_sequences] generation: keys and values go to what is kept; else null
  bool training = false;               // a backward follows; jitter and balance counts apply
  const int32_t* positions = nullptr;  // [T] position of the row in its document: the rotary angle's factor
  const int32_t* document_starts = nullptr;  // [T] first position in its sequence that the row may attend to
  const uint8_t* counted = nullptr;          // [T] 0: padding; not routed, not counted; null: every row counts
  GranuleRows granules{};                    // rows of this pass by granule
  const int64_t* granule_numbers = nullptr;  // [granules.count] global number of each in the step
  const int64_t* granule_counted =
      nullptr;  // [granules.count] counted tokens of each whole granule, beyond this pass too
  std::span<const int64_t> ep_granules{};  // [ranks of ep] how many each has in this pass; in training
  int64_t granules_per_step = 1;
  int64_t sequences_per_granule = 0;  // of each whole granule; in training
  int64_t first_row = 0;              // global number of row 0 among the tokens of the step
  int64_t step = 0;
  double loss_scale = 0;  // 1 / counted targets of the whole batch; in training

  int64_t num_rows() const { return num_sequences * seq_len; }
};

// Weight gradients add, activation gradients assign. Weights are registered by the constructor.
class Layer {
 public:
  virtual ~Layer() = default;
  // Asks for the memory that forward and backward of a pass of at most max_rows rows need.
  virtual void plan(ArenaPlan& plan, int64_t max_rows) = 0;
  // y = f(x). x stays valid until backward.
  virtual void forward(const Pass& pass, ConstTensor x_TD, Tensor y_TD) = 0;
  // dx = f'(x) dy, after forward of the same pass. dx may not be dy.
  virtual void backward(const Pass& pass, ConstTensor x_TD, ConstTensor dy_TD, Tensor dx_TD) = 0;
};

}  // namespace engine::nn
