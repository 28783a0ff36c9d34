#include "engine/train/run_environment.h"

#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>

#include "engine/core/dispatch.h"
#include "engine/core/thread_pool.h"

namespace engine::train {

using Json = nlohmann::ordered_json;

namespace {

std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("model name") && line.find(": ") != std::string::npos) return line.substr(line.find(": ") + 2);
  }
  return "";
}

Json limit(int resource) {
  rlimit value{};
  if (getrlimit(static_cast<__rlimit_resource>(resource), &value) != 0 || value.rlim_cur == RLIM_INFINITY) return {};
  return value.rlim_cur;
}

// Of variables that change how a run is placed or what it prints.
Json environment() {
  Json variables = Json::object();
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const std::string_view text(*entry);
    const std::string_view name = text.substr(0, text.find('='));
    const bool placed =
        name.starts_with("SLURM_") || name.starts_with("OMPI_COMM_WORLD_") || name.starts_with("PMIX_RANK");
    if (placed || name == "OMP_NUM_THREADS" || name == "CUDA_VISIBLE_DEVICES" || name == "NO_COLOR" ||
        name == "COLUMNS")
      variables[std::string(name)] = name.size() < text.size() ? text.substr(name.size() + 1) : "";
  }
  return variables;
}

}  // namespace

std::string environment_json(const std::string& version, const comm::ParallelGroups& groups, int threads) {
  utsname system{};
  uname(&system);
  const int64_t pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
  const Json all = {
      {"switchyard", version},
      {"compiler", __VERSION__},
      {"host", system.nodename},
      {"system", std::string(system.sysname) + " " + system.release + " " + system.machine},
      {"processor", processor_name()},
      {"kernels", cpu_target_name(cpu_target())},
      {"processors", available_processors()},
      {"memory_bytes", pages * page},
      {"ranks", groups.world->size()},
      {"ep_size", groups.ep->size()},
      {"transport", groups.world->transport()},
      {"threads_per_rank", threads},
      {"limits",
       {{"open_files", limit(RLIMIT_NOFILE)}, {"memory_bytes", limit(RLIMIT_AS)}, {"file_bytes", limit(RLIMIT_FSIZE)}}},
      {"environment", environment()}};
  return all.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace engine::train
