// switchyard bench NAME: speed, as a fraction of what the machine can do.
#include "tools/bench.h"

namespace tools {

void add_benched_config(CommandLine& command, BenchedConfig& benched) {
  command.add_option("config", benched.config, "config file").required();
  command.add_option("--set", benched.sets, "KEY=VALUE: another value for a config key; may be repeated");
  command.add_option("--threads", benched.threads, "threads of each rank (default: all processors, divided)")
      .positive();
  command.add_option("--ranks", benched.ranks, "ranks, as threads of this process").positive();
}

void add_bench(CommandLine& program) {
  CommandLine bench = program.add_subcommand("bench", "measure speed");
  bench.require_subcommand();
  add_bench_checkpoint(bench);
  add_bench_step(bench);
  add_bench_moe(bench);
  add_bench_recording(bench);
  add_bench_ops(bench);
  add_bench_comm(bench);
  add_bench_generate(bench);
}

}  // namespace tools
