// DISPATCH(device, function, args): the one place that knows which kernels this build has.
//
// A GPU kernel is in namespace cuda, and there only in a build with CUDA.
// A CPU kernel is compiled once per instruction set into a namespace of that name, with the same bits from each;
// cpu_target() chose one at start (environment variable SWITCHYARD_CPU=portable|avx2|avx512 overrides it).
#pragma once

#include "engine/core/dtype.h"
#include "engine/core/error.h"

namespace engine {

enum class CpuTarget { portable, avx2, avx512 };

// The widest target this machine has; the first call decides.
CpuTarget cpu_target();
const char* cpu_target_name(CpuTarget target);
// Whether this build and this machine can run the target.
bool cpu_target_available(CpuTarget target);
// Tests compare targets; not while kernels run.
void set_cpu_target(CpuTarget target);

}  // namespace engine

// Declares the same function for every instruction set and for GPUs. CPU kernel files define it in namespace
// SIMD_TARGET, GPU kernel files in namespace cuda.
#if defined(__x86_64__)
#define KERNEL(...)    \
  namespace portable { \
  __VA_ARGS__;         \
  }                    \
  namespace avx2 {     \
  __VA_ARGS__;         \
  }                    \
  namespace avx512 {   \
  __VA_ARGS__;         \
  }                    \
  namespace cuda {     \
  __VA_ARGS__;         \
  }
#define DISPATCH_CPU(function, ...)           \
  switch (::engine::cpu_target()) {           \
    case ::engine::CpuTarget::portable:       \
      return portable::function(__VA_ARGS__); \
    case ::engine::CpuTarget::avx2:           \
      return avx2::function(__VA_ARGS__);     \
    case ::engine::CpuTarget::avx512:         \
      return avx512::function(__VA_ARGS__);   \
  }                                           \
  __builtin_unreachable()
#else
#define KERNEL(...)    \
  namespace portable { \
  __VA_ARGS__;         \
  }                    \
  namespace cuda {     \
  __VA_ARGS__;         \
  }
#define DISPATCH_CPU(function, ...) return portable::function(__VA_ARGS__)
#endif

#if defined(SWITCHYARD_CUDA)
#define DISPATCH_CUDA(where, function, ...) \
  if ((where) == ::engine::Device::cuda) return cuda::function(__VA_ARGS__)
#else
#define DISPATCH_CUDA(where, function, ...) \
  ENSURE((where) == ::engine::Device::cpu,  \
         #function " has no kernel for a GPU in this build; configure with -Dcuda=enabled or use --device cpu")
#endif

#define DISPATCH(where, function, ...)           \
  do {                                           \
    DISPATCH_CUDA(where, function, __VA_ARGS__); \
    DISPATCH_CPU(function, __VA_ARGS__);         \
  } while (false)
