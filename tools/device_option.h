// --device of commands that compute.
#pragma once

#include <string>

#include "engine/core/device.h"
#include "engine/core/tensor.h"
#include "tools/command_line.h"

namespace tools {

inline void add_device_option(CommandLine& command, std::string& device) {
  command.add_option("--device", device, "cpu (default), or cuda: one GPU, in builds with -Dcuda=enabled")
      .one_of({"cpu", "cuda"});
}

// Throws Error(environment) with the reason where there is no such device; it is never replaced by another.
inline engine::Device chosen_device(const std::string& device) {
  if (device != "cuda") return engine::Device::cpu;
  engine::require_device();
  return engine::Device::cuda;
}

}  // namespace tools
