// Kernels and host code with one mistake each, and two without: what the emulation has to find, and pass.
#pragma once

#include <string>
#include <vector>

namespace planted {

// Runs the kernel of that name and gives back what it wrote.
std::vector<float> run_kernel(const std::string& name);

// y = x + 5 on one stream, z = y + x on a second, copied to the host; with a mistake in the order.
std::vector<float> run_streams(const std::string& mistake);

// Host code that reads a device pointer: ends the process.
float read_device_memory();

}  // namespace planted
