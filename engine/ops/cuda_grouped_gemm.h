// Products that do not depend on each other, in the ways of grouped_way.h. For GPU kernel files.
#pragma once

#include <optional>
#include <span>

#include "engine/core/device.h"
#include "engine/ops/cuda_gemm.h"
#include "engine/ops/grouped_way.h"

namespace engine::ops::cuda {

// All of them, in the given way or, where that does not take them, as one_stream.
void grouped_gemm(std::span<const Gemm> products, GroupedWay way);

// Where the parts of a group are queued: in `streams` each on the side stream that has the least work so far, else on
// the thread's own.
class GroupStreams {
 public:
  explicit GroupStreams(GroupedWay way);
  // What is queued from here on is the next part, with so many multiply-adds.
  void next(int64_t multiply_adds);
  void join();

 private:
  std::optional<DeviceFork> fork_;
  int64_t work_[DeviceFork::kStreams] = {};
};

// Whether cublasGemmGroupedBatchedEx takes these: operands and results of one type, and with bf16 data that begins at a
// multiple of 16 bytes where K is a multiple of 8, of 4 bytes where K is even.
bool can_batch(std::span<const Gemm> products);
// One call for all of them, which multiplies as gemm() does: CUBLAS_COMPUTE_32F, no TF32. On the calling thread's
// stream; workspace and lists of pointers are device_scratch().
void gemm_batch(std::span<const Gemm> products);

}  // namespace engine::ops::cuda
