// switchyard bench NAME: speed, as a fraction of what the machine can do.
#include "tools/bench.h"

namespace tools {

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
