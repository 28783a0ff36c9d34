#include <cublas_v2.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "tests/emulation/matrix_product.h"
#include "tests/emulation/stream.h"

struct cublasContext {
  cudaStream_t stream = nullptr;
  void* workspace = nullptr;
};

namespace {

struct Group {
  bool a_transposed, b_transposed;
  int m, n, k;
  float alpha, beta;
  emulation::MatrixLayout a, b, c;
  int size;

  bool fits() const {
    return m > 0 && n > 0 && k > 0 && size > 0 && a.step >= a.rows && b.step >= b.rows && c.step >= c.rows;
  }
};

// What the documentation of the real function promises for types; those that nobody uses here are left out.
bool multiplies(cudaDataType a, cudaDataType b, cudaDataType c, cublasComputeType_t compute) {
  return a == b && b == c && (a == CUDA_R_32F || a == CUDA_R_16BF) && compute == CUBLAS_COMPUTE_32F;
}

// bf16 is read by 16 or 4 bytes at once, where rows of that length let it be.
bool is_aligned(const void* p, const Group& group) {
  if (group.a.type == CUDA_R_32F) return true;
  const int row = 2 * group.k;
  return reinterpret_cast<uintptr_t>(p) % static_cast<uintptr_t>(row % 16 == 0 ? 16 : row % 4 == 0 ? 4 : 1) == 0;
}

// Whether two results share memory; columns of others between those of one are not looked at.
bool overlap(const emulation::Matrix& x, const emulation::Matrix& y) {
  const auto end = [](const emulation::Matrix& m) {
    return static_cast<const char*>(m.data) +
           ((m.layout.columns - 1) * m.layout.step + m.layout.rows) * m.element_bytes();
  };
  return x.data < end(y) && y.data < end(x);
}

// One after the other, as products that do not depend on each other may be done.
void run(const std::vector<Group>& groups, const void* const* a, const void* const* b, void* const* c) {
  std::vector<emulation::Matrix> results;
  for (const Group& group : groups) {
    for (int i = 0; i < group.size; ++i, ++a, ++b, ++c) {
      for (const void* array :
           {static_cast<const void*>(a), static_cast<const void*>(b), static_cast<const void*>(c)}) {
        emulation::device_read(array, sizeof(void*));
      }
      for (const void* p : {*a, *b, static_cast<const void*>(*c)}) {
        if (emulation::is_device(p) && is_aligned(p, group)) continue;
        return emulation::fault("a matrix is not in device memory or not aligned", "cublasGemmGroupedBatchedEx",
                                static_cast<int>(results.size()));
      }
      const emulation::Matrix A{*a, group.a}, B{*b, group.b}, C{*c, group.c};
      for (const emulation::Matrix& other : results) {
        if (overlap(C, other)) emulation::fault("results overlap", "cublasGemmGroupedBatchedEx", 0);
      }
      results.push_back(C);
      emulation::product(A, group.a_transposed, B, group.b_transposed, group.alpha, group.beta, C, group.k);
    }
  }
}

}  // namespace

cublasStatus_t cublasCreate(cublasHandle_t* handle) {
  *handle = new cublasContext;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetStream(cublasHandle_t handle, cudaStream_t stream) {
  *handle = {stream, nullptr};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetWorkspace(cublasHandle_t handle, void* workspace, size_t bytes) {
  if (!emulation::is_device(workspace) || bytes < 256) return CUBLAS_STATUS_INVALID_VALUE;
  handle->workspace = workspace;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGemmGroupedBatchedEx(cublasHandle_t handle, const cublasOperation_t transa_array[],
                                          const cublasOperation_t transb_array[], const int m_array[],
                                          const int n_array[], const int k_array[], const void* alpha_array,
                                          const void* const Aarray[], cudaDataType_t Atype, const int lda_array[],
                                          const void* const Barray[], cudaDataType_t Btype, const int ldb_array[],
                                          const void* beta_array, void* const Carray[], cudaDataType_t Ctype,
                                          const int ldc_array[], int group_count, const int group_size[],
                                          cublasComputeType_t compute) {
  if (!multiplies(Atype, Btype, Ctype, compute)) return CUBLAS_STATUS_NOT_SUPPORTED;
  std::vector<Group> groups;
  for (int g = 0; g < group_count; ++g) {
    const bool a_transposed = transa_array[g] == CUBLAS_OP_T, b_transposed = transb_array[g] == CUBLAS_OP_T;
    const int m = m_array[g], n = n_array[g], k = k_array[g];
    groups.push_back({a_transposed,
                      b_transposed,
                      m,
                      n,
                      k,
                      static_cast<const float*>(alpha_array)[g],
                      static_cast<const float*>(beta_array)[g],
                      {Atype, a_transposed ? k : m, a_transposed ? m : k, lda_array[g]},
                      {Btype, b_transposed ? n : k, b_transposed ? k : n, ldb_array[g]},
                      {Ctype, m, n, ldc_array[g]},
                      group_size[g]});
  }
  if (groups.empty() || !std::all_of(groups.begin(), groups.end(), [](const Group& g) { return g.fits(); })) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  if (!emulation::is_device(Aarray) || !emulation::is_device(Barray) || !emulation::is_device(Carray)) {
    emulation::fault("lists of pointers are not in device memory", "cublasGemmGroupedBatchedEx", 0);
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  if (handle->workspace == nullptr) {
    emulation::fault("the library would allocate: cublasSetWorkspace after cublasSetStream",
                     "cublasGemmGroupedBatchedEx", 0);
  }
  emulation::enqueue(handle->stream, "grouped product",
                     [workspace = handle->workspace, groups = std::move(groups), Aarray, Barray, Carray] {
                       emulation::device_written(workspace, 256);
                       run(groups, Aarray, Barray, Carray);
                       return true;
                     });
  return CUBLAS_STATUS_SUCCESS;
}
