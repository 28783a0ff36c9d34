// switchyard train CONFIG: trains or resumes.
#include <cstdio>
#include <fstream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "comm/handshake.h"
#include "comm/process_watch.h"
#include "comm/text.h"
#include "comm/thread_group.h"
#include "engine/config/canonical.h"
#include "engine/config/check.h"
#include "engine/config/reader.h"
#include "engine/core/error.h"
#include "engine/core/hash.h"
#include "engine/core/stop_request.h"
#include "engine/core/thread_pool.h"
#include "engine/data/corpus.h"
#include "engine/train/lr_schedule.h"
#include "engine/train/run.h"
#include "tools/command.h"
#include "tools/command_line.h"
#include "tools/device_option.h"
#include "tools/device_ranks.h"
#include "tools/launch.h"
#include "tools/narration.h"

namespace tools {
namespace {

using engine::Config;
using engine::Error;
using engine::ExitCode;
using engine::str;
namespace train = engine::train;

constexpr double kHandshakeSeconds = 30;  // for ranks to find each other

struct Options {
  std::string config, run_dir, resume = "auto";
  Ranks where;
  std::vector<std::string> sets;
  std::string name, tokens, time;
  int64_t steps = 0;
  std::vector<std::string> allow_change;
  int64_t rollback = -1;
  bool overfit_batch = false, dry_run = false, json = false, quiet = false, verbose = false;
  train::ConsoleOptions console;
};

// "auto" and its fellows, or the path of a checkpoint.
train::RunOptions run_options(const Options& options) {
  train::RunOptions run{.overfit_batch = options.overfit_batch, .dry_run = options.dry_run};
  run.device = chosen_device(options.where.device);
  run.resume.allow_change = options.allow_change;
  train::check_allowed_names(options.allow_change);
  if (options.rollback >= 0) run.resume.rollback = options.rollback;
  if (options.resume == "auto") {
    run.resume.mode = train::Resume::automatic;
  } else if (options.resume == "must") {
    run.resume.mode = train::Resume::must;
  } else if (options.resume == "never") {
    run.resume.mode = train::Resume::never;
  } else {
    run.resume.mode = train::Resume::path;
    run.resume.path = options.resume;
  }
  return run;
}

// With the shorthands for --set.
std::vector<std::string> all_sets(const Options& options) {
  std::vector<std::string> sets = options.sets;
  if (options.steps > 0) sets.push_back(str("train.stop.steps=", options.steps));
  if (!options.tokens.empty()) sets.push_back("train.stop.tokens=" + options.tokens);
  if (!options.time.empty()) sets.push_back("train.stop.time=" + options.time);
  if (!options.name.empty()) sets.push_back("name=" + nlohmann::json(options.name).dump());
  return sets;
}

Config read_config(const Options& options) {
  return engine::load_config(options.config, all_sets(options));
}

train::ConsoleOptions console_options(const Options& options) {
  train::ConsoleOptions console = options.console;
  console.verbosity = options.quiet ? -1 : options.verbose ? 1 : 0;
  return console;
}

// What can be said before any rank starts. Returns the ep_size.
int64_t check(const Options& options, const Config& config, int ranks) {
  if (options.where.device == "cpu" && config.train.precision == "bf16") {
    throw Error(ExitCode::environment,
                "train.precision is \"bf16\", which needs a GPU; use --device cuda, or --set train.precision=fp32");
  }
  const int64_t ep_size = engine::check_ranks(config, ranks);
  check_devices(options.where, ranks);
  if (train::scheduled_steps(config) == 0 && !config.train.stop.time && !options.dry_run) {
    throw Error(ExitCode::usage, "the run has no end; give --steps, or set train.stop.steps or train.stop.tokens");
  }
  return ep_size;
}

std::string default_run_dir(const Options& options, const Config& config) {
  return options.run_dir.empty() ? train::RunDirectory::default_path(config.name) : options.run_dir;
}

// False if a stop was requested meanwhile.
bool prepare(const Config& config, engine::data::Corpus& corpus) {
  try {
    corpus = engine::data::prepare_corpus(config.data, config.directory, static_cast<uint64_t>(config.seed),
                                          config.model.vocabulary());
    return true;
  } catch (const Error& error) {
    if (error.code() != ExitCode::stopped) throw;
    return false;
  }
}

train::RunSummary train_on_threads(const Options& options, const RankPlan& plan) {
  const Config config = read_config(options);
  const int64_t ep_size = check(options, config, plan.ranks);
  train::RunDirectory directory(default_run_dir(options, config));
  Narration narration(directory, console_options(options));
  engine::data::Corpus corpus;
  {
    engine::ThreadPool pool(plan.threads * plan.ranks);
    pool.make_current();
    narration.console().activity("reading the text");
    if (!prepare(config, corpus)) return {.status = "stopped", .run_dir = directory.path()};
    narration.console().activity("");
  }
  narration.say_config(options.config, config, all_sets(options));
  train::RunOptions run = run_options(options);
  narration.join(run);
  const comm::WatchLimits limits;
  return narration.watch([&] {
    train::RunSummary summary;
    comm::run_thread_ranks(
        plan.ranks, plan.threads,
        [&](std::unique_ptr<comm::Group> world) {
          comm::ParallelGroups groups = comm::make_parallel_groups(std::move(world), ep_size);
          train::RunSummary mine = train::run_training(config, run, directory, groups, corpus);
          if (groups.world->rank() == 0) summary = mine;
        },
        plan.ranks > 1 ? &limits : nullptr);
    return summary;
  });
}

std::string hash_of(const std::string& text) {
  const engine::Hash128 hash = engine::xxh3_128(text.data(), static_cast<int64_t>(text.size()));
  return engine::to_hex(reinterpret_cast<const uint8_t*>(&hash), sizeof(hash));
}

// A number that two builds share only if they are the same.
std::string hash_of_this_program() {
  std::ifstream file("/proc/self/exe", std::ios::binary);
  return hash_of(std::string(std::istreambuf_iterator<char>(file), {}));
}

// Ranks that would not train the same model in the same way, or do not reach each other, are found here.
void meet(comm::Group& world, const Options& options, const Config& config) {
  world.set_deadline(kHandshakeSeconds);
  const std::string resolved = engine::canonical_json(config);
  const int asked = options.where.how.ranks;
  comm::shake_hands(world,
                    {{"the program", hash_of_this_program(), ""},
                     {"the config", resolved, str(options.config, " with hash ", hash_of(resolved).substr(0, 16))},
                     {"--ranks", std::to_string(asked), ""}});
  if (asked > 0 && asked != world.size()) {
    throw Error(ExitCode::usage, str("--ranks is ", asked, " but the launcher has started ", world.size(),
                                     "; leave --ranks out, or start as many"));
  }
  world.set_deadline(0);
}

train::RunSummary train_in_job(const Options& options, std::unique_ptr<comm::Group> world) {
  const Config config = read_config(options);
  meet(*world, options, config);
  const int64_t ep_size = check(options, config, world->size());
  world = on_devices(std::move(world), options.where);
  comm::ProcessWatch watch(*world, {});
  const bool leads = world->rank() == 0;
  std::unique_ptr<train::RunDirectory> directory;
  if (leads) directory = std::make_unique<train::RunDirectory>(default_run_dir(options, config));
  const std::string path = comm::all_gather_text(*world, leads ? directory->path() : "")[0];
  if (!leads) directory = std::make_unique<train::RunDirectory>(path, false);
  std::optional<Narration> narration;
  train::RunOptions run = run_options(options);
  if (leads) {
    narration.emplace(*directory, console_options(options));
    narration->join(run);
  }
  engine::data::Corpus corpus;
  int64_t stopped = prepare(config, corpus) ? 0 : 1;
  world->all_reduce_max(comm::Tensor(&stopped, comm::DType::i64, {1})).wait();
  if (narration) narration->say_config(options.config, config, all_sets(options));
  if (stopped != 0) {
    watch.finish(*world);
    return {.status = "stopped", .run_dir = path};
  }
  comm::shake_hands(*world, {{"the text (data.sources)", corpus.manifest, str("of hash ", hash_of(corpus.manifest))}});
  comm::ParallelGroups groups = comm::make_parallel_groups(std::move(world), ep_size);
  const auto train = [&] {
    const train::RunSummary summary = train::run_training(config, run, *directory, groups, corpus);
    watch.finish(*groups.world);
    return summary;
  };
  return narration ? narration->watch(train) : train();
}

int stopped(const train::RunSummary& summary) {
  const std::string what = summary.saved ? str("step ", summary.step, " is saved") : "there was nothing new to save";
  std::fprintf(stderr, "stopped on request: %s; go on with the same command and --run-dir %s\n", what.c_str(),
               summary.run_dir.c_str());
  return static_cast<int>(ExitCode::stopped);
}

int report(const Options& options, const train::RunSummary& summary) {
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
  return summary.stopped() ? stopped(summary) : 0;
}

int run(const Options& options) {
  const RankPlan plan = plan_ranks(options.where.how);
  if (plan.kind != RankPlan::Kind::fork) run_options(options);  // for what is wrong with them; forks use devices later
  if (plan.kind != RankPlan::Kind::start_mpirun) engine::catch_stop_signals();  // a launcher's come at any time
  const auto as_rank = [&](std::unique_ptr<comm::Group> world) {
    const bool leads = world->rank() == 0;
    const train::RunSummary summary = train_in_job(options, std::move(world));
    if (leads) return report(options, summary);
    return static_cast<int>(summary.stopped() ? ExitCode::stopped : ExitCode::ok);
  };
  switch (plan.kind) {
    case RankPlan::Kind::start_mpirun:
      check(options, read_config(options), plan.ranks);  // once, not by every rank
      return start_mpirun(plan, options.where.how.print_launch);
    case RankPlan::Kind::fork:
      return fork_ranks(plan, as_rank);
    case RankPlan::Kind::join:
      return join_mpi(plan, as_rank);
    case RankPlan::Kind::threads:
      break;
  }
  return report(options, train_on_threads(options, plan));
}

}  // namespace

void add_train(CommandLine& program) {
  auto options = std::make_shared<Options>();
  CommandLine command = program.add_subcommand("train", "train a model, or go on with a run");
  command.add_option("config", options->config, "config file").required();
  command.add_option("--set", options->sets, "KEY=VALUE: another value for a config key; may be repeated");
  command.add_option("--run-dir", options->run_dir, "directory of the run (default: runs/NAME-DATE-TIME)");
  command.add_option("--name", options->name, "in place of the config's name");
  command.add_option("--ranks", options->where.how.ranks, "ranks (default: 1, or those a launcher has started)")
      .positive();
  command
      .add_option(
          "--transport", options->where.how.transport,
          "between ranks: threads of this process (default); mpi: processes that mpirun starts; nccl: processes, "
          "each with a GPU of its own")
      .one_of({"threads", "mpi", "nccl"});
  command.add_flag("--share-gpu", options->where.share.shared,
                   "with --transport nccl: several ranks may use one GPU, for tests");
  command.add_flag("--print-launch", options->where.how.print_launch,
                   "with --transport mpi or nccl: only print the command");
  command.add_option("--threads", options->where.how.threads, "threads of each rank (default: all processors, divided)")
      .positive();
  add_device_option(command, options->where.device);
  const Option resume =
      command.add_option("--resume", options->resume, "auto (default), must, never, or the path of a checkpoint");
  command
      .add_option("--rollback", options->rollback,
                  "go back to the checkpoint of this step; later ones are kept as abandoned-step-*")
      .non_negative()
      .excludes(resume);
  command.add_option("--allow-change", options->allow_change,
                     "KEY: goes on although this key of the config differs from the checkpoint's; data: or the text; "
                     "may be repeated");
  command.add_option("--steps", options->steps, "end after so many steps (train.stop.steps)").positive();
  command.add_option("--tokens", options->tokens, "end after so many tokens, e.g. 5M (train.stop.tokens)");
  command.add_option("--time", options->time, "end after so long, e.g. '10 min' (train.stop.time)");
  command.add_flag("--overfit-batch", options->overfit_batch, "use the first batch in every step");
  command.add_flag("--dry-run", options->dry_run, "one step, nothing is saved");
  command.add_flag("--json", options->json, "end with one JSON object on stdout");
  command.add_option("--color", options->console.color, "auto (default), always or never; NO_COLOR is obeyed")
      .one_of({"auto", "always", "never"});
  command.add_option("--progress", options->console.progress, "auto (default), bar, lines or none")
      .one_of({"auto", "bar", "lines", "none"});
  const Option quiet = command.add_flag("-q,--quiet", options->quiet, "say nothing but warnings and errors");
  command.add_flag("-v,--verbose", options->verbose, "say more: every key that was given, the machine").excludes(quiet);
  command.footer("Example: switchyard train configs/tiny.json --steps 200 --run-dir runs/try");
  command.runs([options] { return run(*options); });
}

}  // namespace tools
