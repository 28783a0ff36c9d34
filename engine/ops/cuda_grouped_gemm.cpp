#include "engine/ops/cuda_grouped_gemm.h"

#include <cublas_v2.h>

#include <algorithm>
#include <bit>
#include <iterator>
#include <limits>
#include <utility>
#include <vector>

#include "engine/core/error.h"

namespace engine::ops::cuda {
namespace {

bool is_empty(const Gemm& g) {
  return g.M == 0 || g.N == 0 || g.K == 0;
}

void check(cublasStatus_t status, const char* call) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw Error(ExitCode::environment, str(call, " failed with status ", static_cast<int>(status)));
}

// A call's products as the library sees them, whose matrices are column-major (Call in cuda_gemm.cpp). Each is a group
// of its own, since numbers of rows differ. Kept, so that a call takes nothing from the heap once the lists have grown.
struct Lists {
  std::vector<cublasOperation_t> first_operation, second_operation;
  std::vector<int> m, n, k, first_stride, second_stride, result_stride, size;
  std::vector<float> alpha, beta;
  std::vector<const void*> pointers;  // to all first operands, then to all second ones, then to all results

  void clear(size_t count) {
    for (auto* list : {&first_operation, &second_operation}) list->clear();
    for (auto* list : {&m, &n, &k, &first_stride, &second_stride, &result_stride, &size}) list->clear();
    for (auto* list : {&alpha, &beta}) list->clear();
    pointers.resize(3 * count);
  }
  void add(const Gemm& g) {
    const size_t i = m.size(), count = pointers.size() / 3;
    first_operation.push_back(g.b.transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
    second_operation.push_back(g.a.transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
    const std::pair<std::vector<int>*, int64_t> sizes[] = {{&m, g.N},
                                                           {&n, g.M},
                                                           {&k, g.K},
                                                           {&first_stride, g.b.stride},
                                                           {&second_stride, g.a.stride},
                                                           {&result_stride, g.result_stride}};
    for (const auto& [list, value] : sizes) {
      ENSURE(value <= std::numeric_limits<int>::max(), "cuBLAS takes sizes below 2^31, not ", value);
      list->push_back(static_cast<int>(value));
    }
    size.push_back(1);
    alpha.push_back(1.0f);
    beta.push_back(g.accumulate ? 1.0f : 0.0f);
    pointers[i] = g.b.data;
    pointers[count + i] = g.a.data;
    pointers[2 * count + i] = g.result;
  }
};

// Of one thread; lives as long as the process, like its stream.
struct Library {
  cublasHandle_t handle = nullptr;
  Lists lists;
};
Library& library() {
  thread_local Library* instance = nullptr;
  if (instance == nullptr) {
    device_stream();  // the thread's device
    instance = new Library;
    check(cublasCreate(&instance->handle), "cublasCreate");
  }
  return *instance;
}

// The addresses at which the library's kernels read 16 or 4 bytes at once.
bool is_aligned(const Gemm& g) {
  if (g.a.dtype == DType::f32) return true;
  const int64_t row = g.K * dtype_bytes(g.a.dtype);
  const uintptr_t multiple = row % 16 == 0 ? 16 : row % 4 == 0 ? 4 : 1;
  const void* pointers[] = {g.a.data, g.b.data, g.result};
  return std::all_of(std::begin(pointers), std::end(pointers),
                     [&](const void* p) { return reinterpret_cast<uintptr_t>(p) % multiple == 0; });
}

}  // namespace

GroupStreams::GroupStreams(GroupedWay way) {
  if (way == GroupedWay::streams) fork_.emplace(kGemmWorkspaceBytes);
}

void GroupStreams::next(int64_t multiply_adds) {
  if (!fork_) return;
  int64_t* least = std::min_element(std::begin(work_), std::end(work_));
  fork_->use(static_cast<int>(least - work_));
  *least += multiply_adds;
}

void GroupStreams::join() {
  if (fork_) fork_->join();
}

bool can_batch(std::span<const Gemm> products) {
  return std::all_of(products.begin(), products.end(), [&](const Gemm& g) {
    const DType dtype = products.front().a.dtype;
    return g.a.dtype == dtype && g.b.dtype == dtype && grouped_way_takes(GroupedWay::batched, dtype, g.result_dtype) &&
           (is_empty(g) || is_aligned(g));
  });
}

void gemm_batch(std::span<const Gemm> products) {
  ENSURE(can_batch(products), "products are batched that cuBLAS does not take as a batch");
  Library& lib = library();
  Lists& lists = lib.lists;
  const auto count = static_cast<size_t>(products.size() - std::count_if(products.begin(), products.end(), is_empty));
  lists.clear(count);
  for (const Gemm& g : products) {
    if (is_empty(g)) {
      gemm(g);  // nothing, or zeros
    } else {
      lists.add(g);
    }
  }
  if (count == 0) return;
  // behind the workspace, in a size that does not follow the number of experts that have rows
  const auto list_bytes = static_cast<int64_t>(std::bit_ceil(std::max<size_t>(count, 1024)) * 3 * sizeof(void*));
  char* scratch = static_cast<char*>(device_scratch(kGemmWorkspaceBytes + list_bytes));
  copy_to_device(scratch + kGemmWorkspaceBytes, lists.pointers.data(),
                 static_cast<int64_t>(lists.pointers.size() * sizeof(void*)));
  const auto* pointers = reinterpret_cast<const void* const*>(scratch + kGemmWorkspaceBytes);
  check(cublasSetStream(lib.handle, device_stream()), "cublasSetStream");  // which forgets the workspace
  check(cublasSetWorkspace(lib.handle, scratch, kGemmWorkspaceBytes), "cublasSetWorkspace");
  const cudaDataType type = products.front().a.dtype == DType::f32 ? CUDA_R_32F : CUDA_R_16BF;
  check(cublasGemmGroupedBatchedEx(
            lib.handle, lists.first_operation.data(), lists.second_operation.data(), lists.m.data(), lists.n.data(),
            lists.k.data(), lists.alpha.data(), pointers, type, lists.first_stride.data(), pointers + count, type,
            lists.second_stride.data(), lists.beta.data(), const_cast<void* const*>(pointers + 2 * count), type,
            lists.result_stride.data(), static_cast<int>(count), lists.size.data(), CUBLAS_COMPUTE_32F),
        "cublasGemmGroupedBatchedEx");
}

void grouped_gemm(std::span<const Gemm> products, GroupedWay way) {
  if (way == GroupedWay::batched && can_batch(products)) return gemm_batch(products);
  GroupStreams streams(way);
  for (const Gemm& g : products) {
    streams.next(g.M * g.N * g.K);
    gemm(g);
  }
  streams.join();
}

}  // namespace engine::ops::cuda
