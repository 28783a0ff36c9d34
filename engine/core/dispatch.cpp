#include "engine/core/dispatch.h"

#include <cstdlib>
#include <string>

namespace engine {
namespace {

CpuTarget widest_target() {
  if (cpu_target_available(CpuTarget::avx512)) return CpuTarget::avx512;
  if (cpu_target_available(CpuTarget::avx2)) return CpuTarget::avx2;
  return CpuTarget::portable;
}

CpuTarget choose_target() {
  const char* wanted = std::getenv("SWITCHYARD_CPU");
  if (wanted == nullptr || *wanted == '\0') return widest_target();
  for (CpuTarget target : {CpuTarget::portable, CpuTarget::avx2, CpuTarget::avx512}) {
    if (std::string(wanted) != cpu_target_name(target)) continue;
    if (cpu_target_available(target)) return target;
    throw Error(ExitCode::environment,
                str("SWITCHYARD_CPU is \"", wanted, "\", which this processor does not have; use \"",
                    cpu_target_name(widest_target()), "\" or unset it"));
  }
  throw Error(ExitCode::usage, str("SWITCHYARD_CPU is \"", wanted, "\" but must be portable, avx2 or avx512"));
}

CpuTarget& chosen() {
  static CpuTarget target = choose_target();
  return target;
}

}  // namespace

CpuTarget cpu_target() {
  return chosen();
}

void set_cpu_target(CpuTarget target) {
  ENSURE(cpu_target_available(target), cpu_target_name(target), " is not available here");
  chosen() = target;
}

const char* cpu_target_name(CpuTarget target) {
  switch (target) {
    case CpuTarget::portable:
      return "portable";
    case CpuTarget::avx2:
      return "avx2";
    case CpuTarget::avx512:
      return "avx512";
  }
  return "?";
}

bool cpu_target_available(CpuTarget target) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  switch (target) {
    case CpuTarget::portable:
      return true;
    case CpuTarget::avx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    case CpuTarget::avx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
  }
  return false;
#else
  return target == CpuTarget::portable;
#endif
}

}  // namespace engine
