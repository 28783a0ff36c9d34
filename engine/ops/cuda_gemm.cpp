#include "engine/ops/cuda_gemm.h"

#include <cublasLt.h>

#include <array>
#include <bit>
#include <map>

#include "engine/core/cuda_check.h"
#include "engine/core/device.h"

namespace engine::ops::cuda {
namespace {

constexpr uint32_t kBestAlignment = 256;

void check(cublasStatus_t status, const char* call, const Gemm& g) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw Error(ExitCode::environment, str(call, " failed with status ", static_cast<int>(status), " for a product of ",
                                         g.M, " x ", g.K, " and ", g.K, " x ", g.N));
}

cudaDataType type_of(DType dtype) {
  ENSURE(dtype == DType::f32 || dtype == DType::bf16, "products are of f32 or bf16, not ", dtype_name(dtype));
  return dtype == DType::f32 ? CUDA_R_32F : CUDA_R_16BF;
}

uint32_t alignment_of(const void* p) {
  const auto address = reinterpret_cast<uintptr_t>(p);
  uint32_t alignment = kBestAlignment;
  while (address % alignment != 0) alignment /= 2;
  return alignment;
}

// Handles of the library, freed when they go.
class Layout {
 public:
  Layout(DType dtype, int64_t rows, int64_t columns, int64_t stride, const Gemm& g) {
    check(cublasLtMatrixLayoutCreate(&handle_, type_of(dtype), static_cast<uint64_t>(rows),
                                     static_cast<uint64_t>(columns), stride),
          "cublasLtMatrixLayoutCreate", g);
  }
  Layout(const Layout&) = delete;
  ~Layout() { cublasLtMatrixLayoutDestroy(handle_); }
  operator cublasLtMatrixLayout_t() const { return handle_; }

 private:
  cublasLtMatrixLayout_t handle_ = nullptr;
};

class Description {
 public:
  Description(bool first_transposed, bool second_transposed, const Gemm& g) {
    check(cublasLtMatmulDescCreate(&handle_, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescCreate", g);
    set(CUBLASLT_MATMUL_DESC_TRANSA, first_transposed, g);
    set(CUBLASLT_MATMUL_DESC_TRANSB, second_transposed, g);
  }
  Description(const Description&) = delete;
  ~Description() { cublasLtMatmulDescDestroy(handle_); }
  operator cublasLtMatmulDesc_t() const { return handle_; }

 private:
  void set(cublasLtMatmulDescAttributes_t attribute, bool transposed, const Gemm& g) {
    const cublasOperation_t operation = transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    check(cublasLtMatmulDescSetAttribute(handle_, attribute, &operation, sizeof operation),
          "cublasLtMatmulDescSetAttribute", g);
  }
  cublasLtMatmulDesc_t handle_ = nullptr;
};

// Numbers of rows at experts change with every pass. One algorithm serves all sizes up to the next number of three
// significant bits, so that choices are few and a product's bits follow from its own sizes alone. That holds for what
// counts rows: M of an operand read as it is, K where both are summed over rows. Elsewhere it is the length of a row,
// which strides and alignment go with.
int64_t size_class(int64_t n) {
  if (n < 8) return n;
  const int shift = std::bit_width(static_cast<uint64_t>(n)) - 3;
  return ((n - 1) >> shift << shift) + (int64_t{1} << shift);
}
Gemm of_size_class(const Gemm& g) {
  Gemm largest = g;
  if (!g.a.transposed) largest.M = size_class(g.M);
  if (g.a.transposed && !g.b.transposed) largest.K = size_class(g.K);
  return largest;
}

// What the choice of an algorithm depends on.
using Key = std::array<int64_t, 15>;
Key key_of(const Gemm& g) {
  return {g.M,
          g.N,
          g.K,
          g.accumulate,
          g.a.transposed,
          g.b.transposed,
          static_cast<int64_t>(g.a.dtype),
          static_cast<int64_t>(g.b.dtype),
          static_cast<int64_t>(g.result_dtype),
          g.a.stride,
          g.b.stride,
          g.result_stride,
          alignment_of(g.a.data),
          alignment_of(g.b.data),
          alignment_of(g.result)};
}

// Of one thread; lives as long as the process, like its stream.
struct Library {
  cublasLtHandle_t handle = nullptr;
  std::map<Key, cublasLtMatmulAlgo_t> algorithms;
};
Library& library(const Gemm& g) {
  thread_local Library* instance = nullptr;
  if (instance == nullptr) {
    instance = new Library;
    check(cublasLtCreate(&instance->handle), "cublasLtCreate", g);
  }
  return *instance;
}

// A product as the library sees it, whose matrices are column-major: each of ours transposed, result^T = b^T a^T.
struct Call {
  explicit Call(const Gemm& g)
      : description(g.b.transposed, g.a.transposed, g),
        first(layout(g.b, g.K, g.N, g)),
        second(layout(g.a, g.M, g.K, g)),
        result(g.result_dtype, g.N, g.M, g.result_stride, g) {}
  static Layout layout(const GemmOperand& x, int64_t rows, int64_t columns, const Gemm& g) {
    return x.transposed ? Layout(x.dtype, rows, columns, x.stride, g) : Layout(x.dtype, columns, rows, x.stride, g);
  }
  const Description description;
  const Layout first, second, result;
};

// The library's first proposal; the same in every run on the same kind of device.
cublasLtMatmulAlgo_t choose(const Library& lib, const Gemm& g) {
  const Call call(g);
  cublasLtMatmulPreference_t preference = nullptr;
  check(cublasLtMatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate", g);
  const auto workspace = static_cast<uint64_t>(kGemmWorkspaceBytes);
  const struct {
    cublasLtMatmulPreferenceAttributes_t attribute;
    uint32_t alignment;
  } kAlignments[] = {{CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment_of(g.b.data)},
                     {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment_of(g.a.data)},
                     {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment_of(g.result)},
                     {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment_of(g.result)}};
  cublasStatus_t status = cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                               &workspace, sizeof workspace);
  for (const auto& [attribute, alignment] : kAlignments) {
    if (status != CUBLAS_STATUS_SUCCESS) break;
    status = cublasLtMatmulPreferenceSetAttribute(preference, attribute, &alignment, sizeof alignment);
  }
  cublasLtMatmulHeuristicResult_t found{};
  int count = 0;
  if (status == CUBLAS_STATUS_SUCCESS) {
    status = cublasLtMatmulAlgoGetHeuristic(lib.handle, call.description, call.first, call.second, call.result,
                                            call.result, preference, 1, &found, &count);
  }
  cublasLtMatmulPreferenceDestroy(preference);
  check(status, "cublasLtMatmulAlgoGetHeuristic", g);
  ENSURE(count == 1, "cuBLASLt has no algorithm for a product of ", g.M, " x ", g.K, " and ", g.K, " x ", g.N);
  return found.algo;
}

}  // namespace

void gemm(const Gemm& g) {
  if (g.M == 0 || g.N == 0) return;
  if (g.K == 0) {
    ENSURE(g.accumulate || g.result_stride == g.N, "an empty sum cannot be written to strided rows");
    if (!g.accumulate) device_fill(g.result, 0, g.M * g.N * dtype_bytes(g.result_dtype));
    return;
  }
  Library& lib = library(g);
  const Gemm largest = of_size_class(g);
  const Key key = key_of(largest);
  auto known = lib.algorithms.find(key);
  if (known == lib.algorithms.end()) known = lib.algorithms.emplace(key, choose(lib, largest)).first;
  const Call call(g);
  const float alpha = 1.0f, beta = g.accumulate ? 1.0f : 0.0f;
  check(cublasLtMatmul(lib.handle, call.description, &alpha, g.b.data, call.first, g.a.data, call.second, &beta,
                       g.result, call.result, g.result, call.result, &known->second,
                       device_scratch(kGemmWorkspaceBytes), kGemmWorkspaceBytes, device_stream()),
        "cublasLtMatmul", g);
}

}  // namespace engine::ops::cuda
