// switchyard bench NAME: speed, as a fraction of what the machine can do.
#include "tools/bench.h"

#include <CLI/CLI.hpp>

namespace tools {

void add_bench(CLI::App& app, Command& chosen) {
  CLI::App* bench = app.add_subcommand("bench", "measure speed");
  bench->require_subcommand(1);
  add_bench_checkpoint(*bench, chosen);
  add_bench_step(*bench, chosen);
  add_bench_moe(*bench, chosen);
  add_bench_recording(*bench, chosen);
  add_bench_ops(*bench, chosen);
  add_bench_comm(*bench, chosen);
  add_bench_generate(*bench, chosen);
}

}  // namespace tools
