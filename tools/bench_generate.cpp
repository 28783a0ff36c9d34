// switchyard bench generate CONFIG|CHECKPOINT: how fast tokens come, and how near to what memory allows.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "engine/config/reader.h"
#include "engine/core/profiler.h"
#include "engine/core/rng.h"
#include "engine/core/thread_pool.h"
#include "engine/ops/read_rate.h"
#include "engine/train/decoder.h"
#include "engine/train/generation_cost.h"
#include "engine/train/loaded_model.h"
#include "tools/bench.h"

namespace tools {
namespace {

using namespace engine;

struct Options {
  std::string model;
  std::vector<std::string> sets;
  std::vector<int64_t> batches = {1, 8};
  int64_t prompt_tokens = 64, tokens = 64;
  int threads = 0;
  bool json = false;
};

// A model from a checkpoint, or from a config with the weights that training would begin with.
class BenchModel {
 public:
  explicit BenchModel(const Options& options) {
    if (std::filesystem::is_directory(options.model)) {
      loaded_.emplace(options.model);
      return;
    }
    config_ = load_config(options.model, options.sets);
    ep_ = comm::make_self_group();
    model_ = std::make_unique<model::Model>(config_, store_, *ep_);
    store_.commit(1, false);
    store_.initialize(static_cast<uint64_t>(config_.seed));
  }
  const ModelConfig& config() const { return loaded_ ? loaded_->config().model : config_.model; }
  model::Model& model() { return loaded_ ? loaded_->model() : *model_; }

 private:
  std::optional<train::LoadedModel> loaded_;
  Config config_;
  std::unique_ptr<comm::Group> ep_;
  nn::ParameterStore store_;
  std::unique_ptr<model::Model> model_;
};

struct Measured {
  int64_t batch = 0;
  double prefill = 0, decode = 0;  // tokens per second
  double median = 0, p95 = 0;      // seconds of a step
  double read_rate = 0, share = 0;
  train::GenerationCost cost;
};

// Tokens drawn evenly, so that routing is not that of one text.
std::vector<int32_t> draw_tokens(const ModelConfig& config, uint64_t sequence, int64_t count) {
  const uint64_t ids = static_cast<uint64_t>(std::min<int64_t>(config.vocabulary(), 256));
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < count; ++i) {
    const Philox4 bits = philox(derive_key(1, "bench generate"), static_cast<uint64_t>(i), sequence);
    tokens.push_back(static_cast<int32_t>(uniform_below(bits[0] | static_cast<uint64_t>(bits[1]) << 32, ids)));
  }
  return tokens;
}

double experts_touched(model::Model& model) {
  double touched = 0;
  for (const moe::MoeLayer* layer : model.moe_layers()) touched += static_cast<double>(layer->experts_used());
  return model.moe_layers().empty() ? 0 : touched / static_cast<double>(model.moe_layers().size());
}

Measured measure(BenchModel& bench, const Options& options, int64_t batch) {
  const ModelConfig& config = bench.config();
  train::Decoder decoder(bench.model(), config, batch);
  Measured m{.batch = batch, .cost = {}};
  std::vector<std::vector<int32_t>> drawn;
  std::vector<int64_t> all;
  for (int64_t b = 0; b < batch; ++b) {
    drawn.push_back(draw_tokens(config, static_cast<uint64_t>(b), options.prompt_tokens + options.tokens + 2));
    all.push_back(b);
  }
  const auto prompt = [&](int64_t b) {
    return std::span(drawn[static_cast<size_t>(b)]).first(static_cast<size_t>(options.prompt_tokens));
  };
  decoder.read(0, prompt(0));  // packs the weights
  double start = monotonic_seconds();
  for (int64_t b = 0; b < batch; ++b) decoder.read(b, prompt(b));
  m.prefill = static_cast<double>(batch * options.prompt_tokens) / (monotonic_seconds() - start);
  const ops::ReadBlock block;
  std::vector<double> seconds, read_rates;  // in turns, so that other programs disturb both alike
  double experts = 0;
  for (int64_t i = 0; i < options.tokens + 2; ++i) {
    std::vector<int32_t> next;
    for (int64_t b = 0; b < batch; ++b) {
      next.push_back(drawn[static_cast<size_t>(b)][static_cast<size_t>(options.prompt_tokens + i)]);
    }
    start = monotonic_seconds();
    decoder.advance(all, next);
    const double step = monotonic_seconds() - start;
    if (i < 2) continue;  // warms up
    seconds.push_back(step);
    read_rates.push_back(block.sweep());
    experts += experts_touched(bench.model()) / static_cast<double>(options.tokens);
  }
  std::sort(read_rates.begin(), read_rates.end());
  m.read_rate = read_rates[read_rates.size() / 2];
  std::sort(seconds.begin(), seconds.end());
  m.median = seconds[seconds.size() / 2];
  m.p95 = seconds[seconds.size() * 95 / 100];
  m.decode = static_cast<double>(batch) / m.median;
  const double context = static_cast<double>(options.prompt_tokens) + static_cast<double>(options.tokens) / 2;
  m.cost = train::generation_cost(config, batch, context, experts);
  m.share = m.cost.bytes() / m.median / m.read_rate;
  return m;
}

nlohmann::ordered_json as_json(const Measured& m) {
  return {{"batch", m.batch},
          {"prefill_tokens_per_second", m.prefill},
          {"decode_tokens_per_second", m.decode},
          {"ms_per_token_median", m.median * 1e3},
          {"ms_per_token_p95", m.p95 * 1e3},
          {"cache_bytes_per_token", m.cost.cache_bytes_per_token},
          {"experts_per_step", m.cost.experts},
          {"weight_bytes_per_step", m.cost.weight_bytes},
          {"cache_bytes_per_step", m.cost.cache_bytes},
          {"read_bytes_per_second", m.read_rate},
          {"share_of_bandwidth", m.share}};
}

int run(const Options& options) {
  ThreadPool pool(options.threads > 0 ? options.threads : available_processors());
  pool.make_current();
  BenchModel bench(options);
  const int64_t needed = options.prompt_tokens + options.tokens + 2;
  if (needed > bench.config().max_position_embeddings) {
    throw Error(ExitCode::usage, str("--prompt-tokens and --tokens need ", needed, " positions but the model has ",
                                     bench.config().max_position_embeddings, "; lower one of them"));
  }
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  if (!options.json) {
    std::printf("%s, %d threads, %s; prompts of %lld tokens, then %lld more\n\n", options.model.c_str(),
                pool.num_threads(), cpu_target_name(cpu_target()), static_cast<long long>(options.prompt_tokens),
                static_cast<long long>(options.tokens));
    std::printf("%5s %14s %13s %10s %10s %8s %12s %10s %7s\n", "batch", "prefill tok/s", "decode tok/s", "ms, median",
                "ms, p95", "experts", "MB, weights", "read GB/s", "share");
  }
  for (const int64_t batch : options.batches) {
    const Measured m = measure(bench, options, batch);
    rows.push_back(as_json(m));
    if (options.json) continue;
    std::printf("%5lld %14.0f %13.1f %10.3f %10.3f %8.2f %12.2f %10.1f %7.2f\n", static_cast<long long>(batch),
                m.prefill, m.decode, m.median * 1e3, m.p95 * 1e3, m.cost.experts, m.cost.weight_bytes * 1e-6,
                m.read_rate * 1e-9, m.share);
  }
  if (options.json) {
    const nlohmann::ordered_json result = {{"threads", pool.num_threads()},
                                           {"cpu", cpu_target_name(cpu_target())},
                                           {"prompt_tokens", options.prompt_tokens},
                                           {"tokens", options.tokens},
                                           {"batches", rows}};
    std::printf("%s\n", result.dump().c_str());
  } else {
    std::printf(
        "\nkeys and values take %.0f bytes a token; experts: touched in each layer and step; share: bytes of\n"
        "weights, keys and values over time, of the read rate measured between the steps (both medians)\n",
        train::generation_cost(bench.config(), 1, 0).cache_bytes_per_token);
  }
  return 0;
}

}  // namespace

void add_bench_generate(CommandLine& bench) {
  auto options = std::make_shared<Options>();
  CommandLine command = bench.add_subcommand("generate", "tokens per second of generation, alone and in batches");
  command.add_option("model", options->model, "config file, run directory, checkpoint or Hugging Face directory")
      .required();
  command.add_option("--set", options->sets, "KEY=VALUE: another value for a config key; may be repeated");
  command.add_option("--batch", options->batches, "sequences at once, e.g. 1,8").separated_by(',').positive();
  command.add_option("--prompt-tokens", options->prompt_tokens, "of each sequence").positive();
  command.add_option("--tokens", options->tokens, "to generate").positive();
  command.add_option("--threads", options->threads, "threads (default: all processors)").positive();
  command.add_flag("--json", options->json, "one JSON object on stdout");
  command.footer("Example: switchyard bench generate configs/bench_cpu.json --batch 1,8");
  command.runs([options] { return run(*options); });
}

}  // namespace tools
