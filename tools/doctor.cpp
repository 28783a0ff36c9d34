// switchyard doctor: whether this machine has what building and training need, one line each.
#include <sys/statvfs.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "attention/causal_attention_cudnn.h"
#include "comm/nccl_world.h"
#include "comm/world.h"
#include "engine/config/units.h"
#include "engine/core/available_memory.h"
#include "engine/core/device.h"
#include "engine/core/dispatch.h"
#include "engine/core/error.h"
#include "engine/core/thread_pool.h"
#include "tools/command.h"
#include "tools/command_line.h"

namespace tools {
namespace {

using namespace engine;
namespace fs = std::filesystem;

// "ok", "note": something is done without, or "fail": training cannot run.
struct Check {
  std::string name, status, what, fix;
};

// A program on the PATH, or an empty string.
std::string find_program(const std::string& name) {
  const char* variable = std::getenv("PATH");
  const std::string path = variable == nullptr ? "" : variable;
  for (size_t begin = 0; begin <= path.size();) {
    const size_t end = std::min(path.find(':', begin), path.size());
    const std::string file = path.substr(begin, end - begin) + "/" + name;
    if (end > begin && access(file.c_str(), X_OK) == 0) return file;
    begin = end + 1;
  }
  return "";
}

// The first line that `file --version` prints.
std::string version_of(const std::string& file) {
  std::string command = "'";
  for (char c : file) command += c == '\'' ? "'\\''" : std::string(1, c);
  FILE* output = popen((command + "' --version 2>/dev/null").c_str(), "r");
  if (output == nullptr) return "";
  char line[256] = {};
  std::string first = std::fgets(line, sizeof(line), output) == nullptr ? "" : line;
  while (std::fgets(line, sizeof(line), output) != nullptr) {
  }
  pclose(output);
  return first.substr(0, first.find('\n'));
}

// Something that is good to have: the first of `programs` that is there.
Check program(const std::string& name, const std::vector<std::string>& programs, const std::string& use,
              const std::string& package) {
  for (const std::string& candidate : programs) {
    const std::string file = find_program(candidate);
    if (file.empty()) continue;
    const std::string version = version_of(file);
    return {name, "ok", version.empty() ? file : version, ""};
  }
  return {name, "note", str("not found; ", use), "apt-get install " + package};
}

// Useful only in a build that knows MPI.
Check mpi() {
  Check found =
      program("mpi", {"mpirun", "mpiexec"}, "needed only for ranks on several machines", "openmpi-bin libopenmpi-dev");
  if (found.status != "ok" || comm::mpi_is_built()) return found;
  return {"mpi", "note", found.what + ", but this program was built without MPI; needed only for several machines",
          "install libopenmpi-dev and build it again"};
}

Check memory() {
  constexpr int64_t kLeast = 512 << 20, kGood = int64_t{2} << 30;
  const int64_t bytes = available_memory();
  if (bytes < 0) return {"memory", "note", "cannot be told: /proc/meminfo is not readable", ""};
  const std::string what = print_bytes(bytes) + " available";
  if (bytes >= kGood) return {"memory", "ok", what, ""};
  return {"memory", bytes < kLeast ? "fail" : "note", what, "close other programs, or train a smaller model"};
}

Check disk() {
  constexpr int64_t kLeast = 200 << 20, kGood = int64_t{2} << 30;
  std::error_code error;
  const std::string here = fs::current_path(error).string();
  struct statvfs info {};
  if (access(".", W_OK) != 0 || statvfs(".", &info) != 0)
    return {"disk", "fail", str("cannot write in ", here), "go to a directory of yours, or use --run-dir"};
  const int64_t bytes = static_cast<int64_t>(info.f_bavail) * static_cast<int64_t>(info.f_frsize);
  const std::string what = str(print_bytes(bytes), " free in ", here);
  if (bytes >= kGood) return {"disk", "ok", what, ""};
  return {"disk", bytes < kLeast ? "fail" : "note", what,
          "make room: checkpoints take twice the model's size and more"};
}

// A library that this program uses on GPUs.
Check library(const std::string& name, const std::string& version, const std::string& without, const std::string& fix) {
  if (!version.empty()) return {name, "ok", version, ""};
  return {name, "note", "this program was built without it; " + without, fix};
}

// The device and its libraries; without one, why.
void add_gpu(std::vector<Check>& checks) {
  std::error_code error;
  const std::string reason = why_no_device();
  if (!reason.empty()) {
    const bool here = fs::exists("/dev/nvidia0", error);
    checks.push_back({"cuda", "note", here ? reason : "no NVIDIA device; training runs on the CPU", ""});
    return;
  }
  const int devices = device_count();
  checks.push_back({"cuda", "ok",
                    str(devices, devices == 1 ? " device: " : " devices, the first: ", device_name(),
                        "; the driver knows CUDA ", device_driver()),
                    ""});
  checks.push_back(library("nccl", comm::nccl_library(), "needed for several GPUs",
                           "install libnccl-dev and build it again with -Dcuda=enabled -Dnccl=enabled"));
  checks.push_back(library("cudnn", attention::cuda::cudnn_library(), "attention in bf16 is slower than it could be",
                           "install cuDNN and the headers of cudnn-frontend, and build it again with -Dcudnn=enabled"));
}

std::vector<Check> examine() {
  const int threads = available_processors();
  std::vector<Check> checks = {
      {"cores", "ok", str(threads, threads == 1 ? " processor" : " processors", " for this process"), ""},
      {"cpu", cpu_target() == CpuTarget::portable ? "note" : "ok", str("kernels for ", cpu_target_name(cpu_target())),
       ""},
      memory(),
      disk(),
      program("compiler", {"c++", "g++", "clang++"}, "needed to build, not to run", "g++"),
      program("meson", {"meson"}, "needed to build, not to run", "meson ninja-build"),
      mpi(),
  };
  add_gpu(checks);
  return checks;
}

int run(bool json) {
  const std::vector<Check> checks = examine();
  std::string failed;
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const Check& check : checks) {
    if (check.status == "fail") failed += (failed.empty() ? "" : ", ") + check.name;
    list.push_back({{"name", check.name}, {"status", check.status}, {"what", check.what}, {"fix", check.fix}});
    if (json) continue;
    std::printf("%-5s %-9s %s%s%s\n", check.status.c_str(), check.name.c_str(), check.what.c_str(),
                check.fix.empty() ? "" : ": ", check.fix.c_str());
  }
  if (json) {
    const nlohmann::ordered_json result = {{"ok", failed.empty()}, {"checks", list}};
    std::printf("%s\n", result.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
  }
  std::fflush(stdout);
  if (!failed.empty())
    throw Error(ExitCode::environment, str("this machine is not fit to train on: see ", failed, " above"));
  return 0;
}

}  // namespace

void add_doctor(CommandLine& program) {
  auto json = std::make_shared<bool>(false);
  CommandLine command = program.add_subcommand("doctor", "what this machine has of what building and training need");
  command.add_flag("--json", *json, "one JSON object on stdout");
  command.footer("Exit code 0: training can run here, 4: it cannot.\nExample: switchyard doctor");
  command.runs([json] { return run(*json); });
}

}  // namespace tools
