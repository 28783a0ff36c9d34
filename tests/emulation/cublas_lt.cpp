#include <cublasLt.h>

#include <algorithm>

#include "tests/emulation/matrix_product.h"
#include "tests/emulation/stream.h"

struct cublasLtContext {};
struct cublasLtMatmulPreferenceOpaque_t {
  uint32_t alignments[4] = {256, 256, 256, 256};
};
struct cublasLtMatmulDescOpaque_t {
  bool transposed[2] = {false, false};
};
struct cublasLtMatrixLayoutOpaque_t : emulation::MatrixLayout {};

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  *handle = new cublasLtContext;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* description, cublasComputeType_t compute,
                                        cudaDataType_t scale) {
  *description = new cublasLtMatmulDescOpaque_t;
  return compute == CUBLAS_COMPUTE_32F && scale == CUDA_R_32F ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t description,
                                              cublasLtMatmulDescAttributes_t attribute, const void* value,
                                              size_t bytes) {
  if (bytes != sizeof(cublasOperation_t)) return CUBLAS_STATUS_INVALID_VALUE;
  description->transposed[attribute - CUBLASLT_MATMUL_DESC_TRANSA] =
      *static_cast<const cublasOperation_t*>(value) == CUBLAS_OP_T;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t description) {
  delete description;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type, uint64_t rows,
                                          uint64_t columns, int64_t leading_dimension) {
  *layout = new cublasLtMatrixLayoutOpaque_t{
      {type, static_cast<int64_t>(rows), static_cast<int64_t>(columns), leading_dimension}};
  return type == CUDA_R_32F || type == CUDA_R_16BF ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete layout;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  *preference = new cublasLtMatmulPreferenceOpaque_t;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute, const void* value,
                                                    size_t bytes) {
  if (attribute == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES) {
    return bytes == 8 ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
  }
  if (bytes != 4) return CUBLAS_STATUS_INVALID_VALUE;
  preference->alignments[attribute - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES] = *static_cast<const uint32_t*>(value);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  delete preference;
  return CUBLAS_STATUS_SUCCESS;
}

// The algorithm remembers what alignment it was chosen for, as the real ones rely on it.
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                              cublasLtMatmulPreference_t preference, int requested,
                                              cublasLtMatmulHeuristicResult_t* results, int* found) {
  if (requested < 1) return CUBLAS_STATUS_INVALID_VALUE;
  results[0] = {};
  for (int i = 0; i < 4; ++i) results[0].algo.data[i] = preference->alignments[i];
  *found = 1;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t description, const void* alpha, const void* a,
                              cublasLtMatrixLayout_t a_layout, const void* b, cublasLtMatrixLayout_t b_layout,
                              const void* beta, const void* c, cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* algorithm, void* workspace,
                              size_t workspace_bytes, cudaStream_t stream) {
  const auto [a_transposed, b_transposed] = description->transposed;
  const emulation::Matrix A{a, *a_layout}, B{b, *b_layout}, D{d, *d_layout};
  const int64_t depth = a_transposed ? A.layout.rows : A.layout.columns;
  const bool fits = (a_transposed ? A.layout.columns : A.layout.rows) == D.layout.rows &&
                    (b_transposed ? B.layout.rows : B.layout.columns) == D.layout.columns &&
                    (b_transposed ? B.layout.columns : B.layout.rows) == depth && depth > 0 && c == d &&
                    c_layout->step == D.layout.step && A.layout.step >= A.layout.rows &&
                    B.layout.step >= B.layout.rows && D.layout.step >= D.layout.rows;
  if (!fits) return CUBLAS_STATUS_INVALID_VALUE;
  const void* pointers[] = {a, b, c, d};
  for (int i = 0; i < 4; ++i) {
    if (!emulation::is_device(pointers[i]) || reinterpret_cast<uintptr_t>(pointers[i]) % algorithm->data[i] != 0) {
      emulation::fault("an operand is not in device memory or not aligned as promised", "cublasLtMatmul", i);
    }
  }
  const float factor = *static_cast<const float*>(alpha), kept = *static_cast<const float*>(beta);
  emulation::enqueue(stream, "matmul", [=, a_t = a_transposed, b_t = b_transposed] {
    emulation::device_written(workspace, std::min<size_t>(workspace_bytes, 256));
    emulation::product(A, a_t, B, b_t, factor, kept, D, depth);
    return true;
  });
  return CUBLAS_STATUS_SUCCESS;
}
