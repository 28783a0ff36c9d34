// Matrix products on the GPU by cuBLASLt: CUBLAS_COMPUTE_32F, so f32 is multiplied as f32 (no TF32) and bf16 is
// summed in f32. For GPU kernel files.
#pragma once

#include "engine/core/tensor.h"

namespace engine::ops::cuda {

// A row-major matrix with `stride` elements from row to row, read transposed or not.
struct GemmOperand {
  const void* data = nullptr;
  DType dtype = DType::f32;
  int64_t stride = 0;
  bool transposed = false;
};

// What a stream's products may take of its device_scratch(). An emulated device needs none, and takes time for what it
// has to protect.
#if defined(SWITCHYARD_EMULATED)
inline constexpr int64_t kGemmWorkspaceBytes = int64_t{1} << 16;
#else
inline constexpr int64_t kGemmWorkspaceBytes = int64_t{32} << 20;
#endif

// result[M, N] = a[M, K] * b[K, N], with `accumulate` added to what result holds. K = 0 leaves zero, or what was there.
// On the calling thread's stream; its workspace is device_scratch().
struct Gemm {
  void* result = nullptr;
  DType result_dtype = DType::f32;
  int64_t result_stride = 0;
  GemmOperand a, b;
  int64_t M = 0, N = 0, K = 0;
  bool accumulate = false;
};
void gemm(const Gemm& g);

}  // namespace engine::ops::cuda
