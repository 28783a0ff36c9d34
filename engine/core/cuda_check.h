// CUDA_CHECK(call): a call of the runtime that fails throws Error(environment) with the call and the reason.
#pragma once

#include <cuda_runtime.h>

#include "engine/core/error.h"

namespace engine {

inline void cuda_check(cudaError_t status, const char* call, const char* file, int line) {
  if (status == cudaSuccess) return;
  throw Error(ExitCode::environment, str(file, ":", line, ": ", call, " failed: ", cudaGetErrorString(status)));
}

}  // namespace engine

#define CUDA_CHECK(...) ::engine::cuda_check((__VA_ARGS__), #__VA_ARGS__, __FILE__, __LINE__)
