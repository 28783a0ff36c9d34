// The benchmarks: one file each, `bench_<name>.cpp`. Every one measures the limit it is compared with in the same run.
#pragma once

#include <string>
#include <vector>

#include "tools/command_line.h"

namespace tools {

// A config and where it is measured: ranks as threads of this process; threads of each rank, 0: all processors,
// divided.
struct BenchedConfig {
  std::string config;
  std::vector<std::string> sets;
  int threads = 0, ranks = 1;
};
void add_benched_config(CommandLine& command, BenchedConfig& benched);

// Each adds its subcommand to `bench`.
void add_bench_checkpoint(CommandLine& bench);
void add_bench_ops(CommandLine& bench);
void add_bench_comm(CommandLine& bench);
void add_bench_generate(CommandLine& bench);
void add_bench_step(CommandLine& bench);
void add_bench_moe(CommandLine& bench);
void add_bench_recording(CommandLine& bench);

}  // namespace tools
