// switchyard train CONFIG: trains or resumes.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "comm/thread_group.h"
#include "engine/config/check.h"
#include "engine/config/reader.h"
#include "engine/core/error.h"
#include "engine/core/thread_pool.h"
#include "engine/data/corpus.h"
#include "engine/train/lr_schedule.h"
#include "engine/train/run.h"
#include "tools/command.h"

namespace tools {
namespace {

using engine::Config;
using engine::Error;
using engine::ExitCode;
using engine::str;
namespace train = engine::train;

struct Options {
  std::string config, run_dir, transport = "threads", device = "cpu", resume = "auto";
  std::vector<std::string> sets;
  int ranks = 1, threads = 0;
  int64_t steps = 0;
  bool overfit_batch = false, dry_run = false, json = false;
};

// "auto" and its fellows, or the path of a checkpoint.
train::RunOptions run_options(const Options& options) {
  train::RunOptions run{.overfit_batch = options.overfit_batch, .dry_run = options.dry_run};
  if (options.resume == "auto") {
    run.resume = train::Resume::automatic;
  } else if (options.resume == "must") {
    run.resume = train::Resume::must;
  } else if (options.resume == "never") {
    run.resume = train::Resume::never;
  } else {
    run.resume = train::Resume::path;
    run.resume_path = options.resume;
  }
  return run;
}

void check_machine(const Options& options) {
  if (options.device != "cpu") {
    throw Error(ExitCode::environment,
                str("--device ", options.device, " is not there: this build has no GPU kernels; use --device cpu"));
  }
  if (options.transport != "threads") {
    throw Error(ExitCode::environment,
                str("--transport ", options.transport, " is not there yet; use --transport threads"));
  }
}

int run(const Options& options) {
  std::vector<std::string> sets = options.sets;
  if (options.steps > 0) sets.push_back(str("train.stop.steps=", options.steps));
  const Config config = engine::load_config(options.config, sets);
  check_machine(options);
  const int64_t ep_size = engine::check_ranks(config, options.ranks);
  if (train::scheduled_steps(config) == 0 && !config.train.stop.time && !options.dry_run) {
    throw Error(ExitCode::usage, "the run has no end; give --steps, or set train.stop.steps or train.stop.tokens");
  }
  const int threads =
      options.threads > 0 ? options.threads : std::max(1, engine::available_processors() / options.ranks);
  train::RunDirectory directory(options.run_dir.empty() ? train::RunDirectory::default_path(config.name)
                                                        : options.run_dir);
  engine::data::Corpus corpus;
  {
    engine::ThreadPool pool(threads * options.ranks);
    pool.make_current();
    corpus = engine::data::prepare_corpus(config.data, config.directory, static_cast<uint64_t>(config.seed),
                                          config.model.vocabulary());
  }
  train::catch_stop_signals();
  train::RunSummary summary;
  const train::RunOptions run = run_options(options);
  comm::run_thread_ranks(options.ranks, threads, [&](std::unique_ptr<comm::Group> world) {
    comm::ParallelGroups groups = comm::make_parallel_groups(std::move(world), ep_size);
    train::RunSummary mine = train::run_training(config, run, directory, groups, corpus);
    if (groups.world->rank() == 0) summary = mine;
  });
  if (options.json) {
    const nlohmann::ordered_json line = {{"status", summary.status},  {"step", summary.step},
                                         {"tokens", summary.tokens},  {"loss", summary.loss},
                                         {"digest", summary.digest},  {"tokens_per_second", summary.tokens_per_second},
                                         {"run_dir", summary.run_dir}};
    std::printf("%s\n", line.dump().c_str());
  } else {
    std::printf("%s: step %lld, loss %.4f, %.0f tokens/s, digest %.16s, %s\n", summary.status.c_str(),
                static_cast<long long>(summary.step), summary.loss, summary.tokens_per_second, summary.digest.c_str(),
                summary.run_dir.c_str());
  }
  if (!summary.stopped()) return 0;
  std::fprintf(stderr, "stopped on request; go on with the same command and --run-dir %s\n", summary.run_dir.c_str());
  return static_cast<int>(ExitCode::stopped);
}

}  // namespace

void add_train(CLI::App& app, Command& chosen) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("train", "train a model, or go on with a run");
  command->add_option("config", options->config, "config file")->required();
  command->add_option("--set", options->sets, "KEY=VALUE: another value for a config key; may be repeated");
  command->add_option("--run-dir", options->run_dir, "directory of the run (default: runs/NAME-DATE-TIME)");
  command->add_option("--ranks", options->ranks, "ranks, as threads of this process")->check(CLI::PositiveNumber);
  command->add_option("--transport", options->transport, "between ranks: threads")
      ->check(CLI::IsMember({"threads", "mpi", "nccl"}));
  command->add_option("--threads", options->threads, "threads of each rank (default: all processors, divided)")
      ->check(CLI::PositiveNumber);
  command->add_option("--device", options->device, "cpu")->check(CLI::IsMember({"cpu", "cuda"}));
  command->add_option("--resume", options->resume, "auto (default), must, never, or the path of a checkpoint");
  command->add_option("--steps", options->steps, "end after so many steps (train.stop.steps)")
      ->check(CLI::PositiveNumber);
  command->add_flag("--overfit-batch", options->overfit_batch, "use the first batch in every step");
  command->add_flag("--dry-run", options->dry_run, "one step, nothing is saved");
  command->add_flag("--json", options->json, "end with one JSON object on stdout");
  command->footer("Example: switchyard train configs/shakespeare.json --steps 200 --run-dir runs/try");
  command->callback([options, &chosen] { chosen = [options] { return run(*options); }; });
}

}  // namespace tools
