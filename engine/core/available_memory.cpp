#include "engine/core/available_memory.h"

#include <algorithm>
#include <fstream>
#include <string>
#include <utility>

namespace engine {
namespace {

// A number of bytes in a file such as memory.max; -1 if there is none.
int64_t bytes_in(const std::string& path) {
  std::ifstream file(path);
  int64_t bytes = -1;
  return file >> bytes && bytes < int64_t{1} << 60 ? bytes : -1;
}

int64_t status_bytes(const std::string& name) {
  std::ifstream file("/proc/self/status");
  for (std::string key; file >> key; std::getline(file, key)) {
    int64_t kibibytes = 0;
    if (key == name && file >> kibibytes) return kibibytes * 1024;
  }
  return 0;
}

}  // namespace

int64_t resident_memory() {
  return status_bytes("VmRSS:");
}

int64_t peak_resident_memory() {
  return status_bytes("VmHWM:");
}

int64_t available_memory() {
  std::ifstream file("/proc/meminfo");
  std::string key;
  int64_t kibibytes = 0, available = -1;
  while (file >> key >> kibibytes) {
    if (key == "MemAvailable:") available = kibibytes * 1024;
    std::getline(file, key);
  }
  for (const auto& [limit, used] :
       {std::pair{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"},
        {"/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"}}) {
    const int64_t room = bytes_in(limit), taken = bytes_in(used);
    if (room > 0 && taken >= 0) available = available < 0 ? room - taken : std::min(available, room - taken);
  }
  return available;
}

}  // namespace engine
