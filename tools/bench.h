// The benchmarks: one file each, `bench_<name>.cpp`. Every one measures the limit it is compared with in the same run.
#pragma once

#include "tools/command_line.h"

namespace tools {

// Each adds its subcommand to `bench`.
void add_bench_checkpoint(CommandLine& bench);
void add_bench_ops(CommandLine& bench);
void add_bench_comm(CommandLine& bench);
void add_bench_generate(CommandLine& bench);
void add_bench_step(CommandLine& bench);
void add_bench_moe(CommandLine& bench);
void add_bench_recording(CommandLine& bench);

}  // namespace tools
