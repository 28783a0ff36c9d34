// switchyard bench step CONFIG: how fast a training step is, and how near to the limit of the machine.
#include <malloc.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <span>

#include "comm/thread_group.h"
#include "engine/config/check.h"
#include "engine/config/parameter_count.h"
#include "engine/config/reader.h"
#include "engine/config/units.h"
#include "engine/core/available_memory.h"
#include "engine/core/device.h"
#include "engine/core/planning.h"
#include "engine/core/thread_pool.h"
#include "engine/ops/device_rates.h"
#include "engine/ops/fma_peak.h"
#include "engine/train/trainer.h"
#include "tools/bench.h"
#include "tools/device_option.h"
#include "tools/synthetic_sample.h"

namespace tools {
namespace {

using namespace engine;

struct Options : BenchedConfig {
  std::string device = "cpu";
  int64_t steps = 5;
  bool json = false;
};

struct Measured {
  double seconds = 0,
         peak_gflops = 0;  // median step; peak of one rank's threads, or of a product on the GPU, times ranks
  std::vector<Profiler::Phase> phases;  // seconds per step
  double loss = 0;
  int64_t memory = 0, resident = 0;  // that all ranks took: in buffers and on the heap, and in pages of the machine
  int64_t heap = 0;                  // of that, of the whole process after the steps
  double imbalance = 0;              // of the last step's load
  double waits = 0, waited = 0;      // of the host for the GPU: times and seconds per step
};

// The load of the busiest expert over the mean of its layer, in the layer where that is largest.
double imbalance_of(const std::vector<int64_t>& tokens_per_expert, int64_t experts) {
  double largest = 0;
  for (size_t begin = 0; begin < tokens_per_expert.size(); begin += static_cast<size_t>(experts)) {
    const auto layer = std::span(tokens_per_expert).subspan(begin, static_cast<size_t>(experts));
    const double total = static_cast<double>(std::accumulate(layer.begin(), layer.end(), int64_t{0}));
    if (total > 0) largest = std::max(largest, static_cast<double>(std::ranges::max(layer) * experts) / total);
  }
  return largest;
}

// What is taken from malloc, in all threads.
int64_t heap_bytes() {
  const struct mallinfo2 heap = mallinfo2();
  return static_cast<int64_t>(heap.uordblks + heap.hblkhd);
}

Measured measure(const Config& config, const Options& options, comm::ParallelGroups& groups) {
  const Device device = chosen_device(options.device);
  const int64_t memory_before = device == Device::cuda ? device_memory_used() : 0;
  const DType storage = config.train.precision == "bf16" ? DType::bf16 : DType::f32;
  const double peak =
      device == Device::cuda ? ops::measure_product_gflops(storage) : 0;  // before the model takes the memory
  train::Trainer trainer(config, groups, {}, device);
  trainer.begin_digest();
  const auto read = [&](int64_t sample, int32_t* tokens) { synthetic_sample(config, sample, tokens); };
  std::vector<double> seconds, peaks;
  Measured result;
  DeviceWaits waits_before;
  for (int64_t step = 0; step < options.steps + 2; ++step) {
    if (step == 2) {  // the first step is computed twice, the second warms up
      trainer.model().profiler().clear();
      if (device == Device::cuda) waits_before = device_waits();
    }
    groups.world->barrier();  // else those who measure the peak delay those who are still in a step, or the reverse
    if (step >= 2) peaks.push_back(device == Device::cuda ? peak : ops::measure_fma_peak_gflops());
    groups.world->barrier();
    const train::StepResult r = trainer.train_step(step * config.sequences_per_step(), read);
    if (step >= 2) seconds.push_back(r.seconds);
    result.loss = r.loss;
  }
  if (device == Device::cuda) {
    result.memory = device_memory_used() - memory_before;
    const DeviceWaits waits = device_waits();
    result.waits = static_cast<double>(waits.count - waits_before.count) / static_cast<double>(options.steps);
    result.waited = (waits.seconds - waits_before.seconds) / static_cast<double>(options.steps);
    trainer.model().profiler().clear();
    trainer.model().profiler().wait_for_device();
    trainer.pass_graphs().stop();
    for (int64_t step = 0; step < options.steps; ++step) trainer.train_step(step * config.sequences_per_step(), read);
  }
  if (device == Device::cpu && groups.world->rank() == 0) result.heap = heap_bytes();
  result.imbalance = imbalance_of(trainer.tokens_per_expert(), config.model.num_experts);
  std::sort(seconds.begin(), seconds.end());
  std::sort(peaks.begin(), peaks.end());
  result.seconds = seconds[seconds.size() / 2];
  result.peak_gflops = peaks[peaks.size() / 2] * groups.world->size();
  result.phases = trainer.model().profiler().phases();
  for (Profiler::Phase& phase : result.phases) phase.seconds /= static_cast<double>(options.steps);
  return result;
}

int run(const Options& options) {
  const Config config = load_config(options.config, options.sets);
  const int64_t ep_size = check_ranks(config, options.ranks);
  chosen_device(options.device);
  if (options.device == "cpu" && config.train.precision == "bf16") {
    throw Error(ExitCode::environment, "train.precision is \"bf16\", which needs a GPU; use --device cuda");
  }
  const int threads = options.threads > 0 ? options.threads : std::max(1, available_processors() / options.ranks);
  Measured m;
  const int64_t resident_before = resident_memory(), memory_before = buffer_bytes().now + heap_bytes();
  comm::run_thread_ranks(options.ranks, threads, [&](std::unique_ptr<comm::Group> world) {
    comm::ParallelGroups groups = comm::make_parallel_groups(std::move(world), ep_size);
    Measured mine = measure(config, options, groups);
    if (groups.world->rank() == 0) m = mine;
  });
  if (options.device == "cpu") {
    m.memory = buffer_bytes().most + m.heap - memory_before;
    m.resident = peak_resident_memory() - resident_before;
  }
  const double tokens = static_cast<double>(config.batch_tokens());
  const double model_flops = 3 * forward_flops_per_token(config.model, config.train.seq_len) * tokens;
  // executed beside the model's: attention's backward computes the scores again
  const double scores = static_cast<double>(config.model.num_hidden_layers * config.model.num_attention_heads *
                                            config.model.head_size() * (config.train.seq_len + 1));
  const double executed_flops = model_flops + scores * tokens;
  const double gflops = model_flops / m.seconds * 1e-9, fraction = gflops / m.peak_gflops;
  if (options.json) {
    nlohmann::ordered_json phases = nlohmann::ordered_json::object();
    for (const Profiler::Phase& phase : m.phases) phases[phase.name] = phase.seconds;
    const nlohmann::ordered_json line = {{"tokens_per_second", tokens / m.seconds},
                                         {"step_seconds", m.seconds},
                                         {"model_gflops", gflops},
                                         {"executed_gflops", executed_flops / m.seconds * 1e-9},
                                         {"peak_gflops", m.peak_gflops},
                                         {"fraction_of_peak", fraction},
                                         {"memory_bytes", m.memory},
                                         {"resident_bytes", m.resident},
                                         {"imbalance", m.imbalance},
                                         {"host_waits", m.waits},
                                         {"host_waited_seconds", m.waited},
                                         {"phases", phases},
                                         {"ranks", options.ranks},
                                         {"threads", threads},
                                         {"cpu", cpu_target_name(cpu_target())},
                                         {"device", options.device}};
    std::printf("%s\n", line.dump().c_str());
    return 0;
  }
  std::printf("%s: %.0f tokens/s, %.3f s per step of %.0f tokens (median of %lld)\n", options.config.c_str(),
              tokens / m.seconds, m.seconds, tokens, static_cast<long long>(options.steps));
  if (options.device == "cuda") {
    std::printf("model %.1f GFLOP/s = %.2f of the %.1f GFLOP/s of a large product in %s (%s)\n", gflops, fraction,
                m.peak_gflops, config.train.precision.c_str(), device_name().c_str());
  } else {
    std::printf(
        "model %.1f GFLOP/s = %.2f of the FMA peak of %.1f GFLOP/s measured between the steps (%d ranks x %d threads, "
        "%s)\n",
        gflops, fraction, m.peak_gflops, options.ranks, threads, cpu_target_name(cpu_target()));
  }
  if (options.device == "cuda") {
    std::printf("the host waits for the GPU %.0f times a step, %.2f ms in all\n", m.waits, m.waited * 1e3);
  }
  if (m.imbalance > 0) std::printf("the busiest expert has %.2f times the mean of its layer\n", m.imbalance);
  const std::string resident =
      m.resident > 0 ? ", " + print_bytes(m.resident) + " resident with program and stacks" : "";
  std::printf("%s of memory in all%s; `switchyard plan` tells for what\n\n", print_bytes(m.memory).c_str(),
              resident.c_str());
  std::printf("%-20s %9s %7s   of rank 0; \"ffn\" holds router, dispatch and experts\n", "phase", "ms", "share");
  for (const Profiler::Phase& phase : m.phases) {
    std::printf("%-20s %9.2f %6.1f%%\n", phase.name, phase.seconds * 1e3, 100 * phase.seconds / m.seconds);
  }
  return 0;
}

}  // namespace

void add_bench_step(CommandLine& bench) {
  auto options = std::make_shared<Options>();
  CommandLine command = bench.add_subcommand("step", "a whole training step on synthetic tokens");
  add_benched_config(command, *options);
  add_device_option(command, options->device);
  command.add_option("--steps", options->steps, "steps to measure, after two that are not").positive();
  command.add_flag("--json", options->json, "one JSON object on stdout");
  command.footer("Example: switchyard bench step configs/bench_small_cpu.json");
  command.runs([options] { return run(*options); });
}

}  // namespace tools
