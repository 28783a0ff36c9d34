// switchyard bench recording CONFIG: what recording the experts' load, and tracing their choices, add to a step.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "comm/thread_group.h"
#include "engine/config/check.h"
#include "engine/config/reader.h"
#include "engine/core/thread_pool.h"
#include "engine/train/load_recorder.h"
#include "tools/bench.h"
#include "tools/synthetic_sample.h"

namespace tools {
namespace {

using namespace engine;

struct Options : BenchedConfig {
  int64_t rounds = 20;
  bool json = false;
};

// Seconds of steps with nobody watching, with recording, and with recording and a trace, in turns.
struct Seconds {
  std::vector<double> plain, recorded, traced;
};

Seconds measure(const Config& config, const Options& options, comm::ParallelGroups& groups, const std::string& path) {
  train::Trainer trainer(config, groups);
  trainer.begin_digest();
  std::vector<std::string> sources;
  for (int s = 0; s < 4; ++s) sources.push_back("source " + std::to_string(s));
  const auto source_of = [](int64_t sample) { return static_cast<size_t>(sample % 4); };
  train::LoadRecorder recorder(trainer, sources, source_of);
  std::vector<int64_t> steps;
  for (int64_t round = 0; round < options.rounds; ++round) steps.push_back(2 + 3 * round + 3);
  train::TraceRecorder trace(trainer, sources, source_of, steps, groups.world->rank() == 0 ? path : "");
  recorder.trace_with(&trace);
  const auto read = [&](int64_t sample, int32_t* tokens) { synthetic_sample(config, sample, tokens); };
  const auto step = [&](bool watched) {
    groups.world->barrier();
    const double start = monotonic_seconds();
    const int64_t first = trainer.step() * config.sequences_per_step();
    trainer.model().observe_routing(watched ? &recorder : nullptr);
    if (watched) recorder.begin_step(first), trace.begin_step(first);
    const train::StepResult result = trainer.train_step(first, read);
    if (watched) recorder.end_step(result), trace.end_step(result);
    groups.world->barrier();
    return monotonic_seconds() - start;
  };
  Seconds seconds;
  for (int i = 0; i < 2; ++i) step(true);
  for (int64_t round = 0; round < options.rounds; ++round) {
    seconds.plain.push_back(step(false));
    seconds.recorded.push_back(step(true));
    seconds.traced.push_back(step(true));
    recorder.finish();
  }
  return seconds;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// The median over rounds of how much longer a step took than the plain one of its round.
double overhead(const std::vector<double>& with, const std::vector<double>& without) {
  std::vector<double> ratios;
  for (size_t i = 0; i < with.size(); ++i) ratios.push_back(with[i] / without[i] - 1);
  return median(ratios);
}

int run(const Options& options) {
  const Config config = load_config(options.config, options.sets);
  const int64_t ep_size = check_ranks(config, options.ranks);
  const int threads = options.threads > 0 ? options.threads : std::max(1, available_processors() / options.ranks);
  const std::string path =
      (std::filesystem::temp_directory_path() / ("switchyard-" + std::to_string(getpid()))).string();
  Seconds seconds;
  comm::run_thread_ranks(options.ranks, threads, [&](std::unique_ptr<comm::Group> world) {
    comm::ParallelGroups groups = comm::make_parallel_groups(std::move(world), ep_size);
    Seconds mine = measure(config, options, groups, path);
    if (groups.world->rank() == 0) seconds = std::move(mine);
  });
  std::error_code error;
  const double bytes =
      static_cast<double>(std::filesystem::file_size(path, error)) / static_cast<double>(options.rounds);
  std::filesystem::remove(path, error);
  const double plain = median(seconds.plain), recording = overhead(seconds.recorded, seconds.plain),
               tracing = overhead(seconds.traced, seconds.plain);
  if (options.json) {
    const nlohmann::ordered_json line = {
        {"step_seconds", plain}, {"recording", recording}, {"trace", tracing}, {"trace_bytes_per_step", bytes}};
    std::printf("%s\n", line.dump().c_str());
    return 0;
  }
  std::printf("%s: %.4f s a step; recording adds %.2f %%, recording and a trace %.2f %% (%.0f kB a step)\n",
              options.config.c_str(), plain, 100 * recording, 100 * tracing, 1e-3 * bytes);
  std::printf("median over %lld rounds of a step of each kind\n", static_cast<long long>(options.rounds));
  return 0;
}

}  // namespace

void add_bench_recording(CommandLine& bench) {
  auto options = std::make_shared<Options>();
  CommandLine command = bench.add_subcommand("recording", "what recording expert load adds to a step");
  add_benched_config(command, *options);
  command.add_option("--rounds", options->rounds, "rounds of three steps").positive();
  command.add_flag("--json", options->json, "one JSON object on stdout");
  command.footer("Example: switchyard bench recording configs/bench_small_cpu.json");
  command.runs([options] { return run(*options); });
}

}  // namespace tools
