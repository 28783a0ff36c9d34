// The benchmarks: one file each, `bench_<name>.cpp`. Every one measures the limit it is compared with in the same run.
#pragma once

#include "tools/command.h"

namespace tools {

// Each adds its subcommand to `bench`, whose callback sets `chosen`.
void add_bench_checkpoint(CLI::App& bench, Command& chosen);
void add_bench_ops(CLI::App& bench, Command& chosen);
void add_bench_comm(CLI::App& bench, Command& chosen);
void add_bench_generate(CLI::App& bench, Command& chosen);
void add_bench_step(CLI::App& bench, Command& chosen);
void add_bench_moe(CLI::App& bench, Command& chosen);
void add_bench_recording(CLI::App& bench, Command& chosen);

}  // namespace tools
