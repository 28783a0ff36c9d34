#include "engine/train/run.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>

#include "engine/config/canonical.h"
#include "engine/config/parameter_count.h"
#include "engine/config/units.h"
#include "engine/core/error.h"
#include "engine/core/thread_pool.h"
#include "engine/data/ngram.h"
#include "engine/data/tokenizer.h"
#include "engine/train/console.h"
#include "engine/train/evaluate.h"
#include "engine/train/initial_weights.h"
#include "engine/train/load_window.h"
#include "engine/train/trainer.h"
#include "engine/train/trainer_checkpoint.h"

namespace engine::train {

using Json = nlohmann::ordered_json;

namespace {

std::atomic<int> signals_received{0};

Json number_or_null(const std::optional<double>& x) {
  return x ? Json(*x) : Json();
}

void on_signal(int number) {
  if (signals_received.fetch_add(1) > 0) _exit(128 + number);
}

class Run {
 public:
  Run(const Config& config, const RunOptions& options, RunDirectory& directory, comm::ParallelGroups& groups,
      const data::Corpus& corpus)
      : config_(config),
        options_(options),
        directory_(directory),
        groups_(groups),
        corpus_(corpus),
        leads_(groups.world->rank() == 0),
        console_(!leads_),
        sampler_(corpus, config.train.seq_len, static_cast<uint64_t>(config.seed)),
        trainer_(config, groups),
        evaluator_(trainer_.model(), *groups.world, config.train.seq_len, trainer_.max_rows(),
                   config.train.document_mask),
        window_(trainer_) {}

  RunSummary run() {
    start_or_resume();
    describe();
    RunSummary summary{.status = "done", .run_dir = directory_.path()};
    if (trainer_.step() >= last_step() && !options_.dry_run) {
      summary.status = "already done";
    } else {
      while (trainer_.step() < last_step()) {
        one_step();
        if (options_.dry_run) break;
        if (stop_agreed()) {
          summary.status = trainer_.step() < last_step() && !time_is_up_ ? "stopped" : "done";
          break;
        }
      }
      if (!options_.dry_run) finish();
    }
    summary.step = trainer_.step();
    summary.tokens = trainer_.step() * config_.batch_tokens();
    summary.loss = last_loss_;
    summary.tokens_per_second = mean_speed();
    summary.digest = trainer_.digest();
    return summary;
  }

 private:
  int64_t last_step() const { return trainer_.total_steps() > 0 ? trainer_.total_steps() : INT64_MAX; }
  double mean_speed() const { return trained_seconds_ > 0 ? trained_tokens_ / trained_seconds_ : 0; }

  // --- start -------------------------------------------------------------------------------------------------------

  void start_or_resume() {
    std::vector<std::string> problems;
    const std::string from =
        checkpoint_to_resume(directory_.checkpoints(), options_.resume, options_.resume_path, problems);
    for (const std::string& problem : problems) console_.warning(problem);
    if (from.empty()) {
      if (config_.train.init_from) console_.line("init", load_initial_weights(trainer_));
      trainer_.begin_digest();
    } else {
      restore_trainer(trainer_, from);
      console_.line("resume", str(from, ", step ", trainer_.step()));
    }
    if (!leads_ || options_.dry_run) return;
    directory_.write("config.json", config_.text.empty() ? canonical_json(config_) : config_.text);
    directory_.write("config.resolved.json", canonical_json(config_));
    directory_.write("data.manifest.json", corpus_.manifest);
    for (const char* log : {"metrics.jsonl", "experts.jsonl", "eval.jsonl"}) {
      directory_.abandon_after(log, trainer_.step());
    }
  }

  void describe() {
    const ParameterCount parameters = count_parameters(config_.model);
    console_.line("run", directory_.path());
    console_.line("ranks",
                  str(groups_.world->size(), " as ", groups_.world->transport(), ", ep_size ", groups_.ep->size(), ", ",
                      current_threads(), " threads each, cpu ", cpu_target_name(cpu_target())));
    for (const std::string& source : corpus_.summary()) console_.line("data", source);
    console_.line("model", str(config_.model.num_hidden_layers, " layers, ", config_.model.num_experts,
                               " experts, top-", config_.model.num_experts_per_tok, ": ", print_count(parameters.total),
                               " parameters, ", print_count(parameters.active), " active"));
    console_.line("memory", memory_text());
    if (leads_) three_gram_ = three_gram_baseline();
    if (three_gram_ > 0) {
      char text[96];
      std::snprintf(text, sizeof(text), "the held-out text under a 3-gram model of the training text: %.3f bits/byte",
                    three_gram_);
      console_.line("baseline", text);
    }
    if (config_.model.router.force == "uniform")
      console_.warning("model.router.force is \"uniform\": experts are not chosen by the router");
  }

  // What a model of three bytes reaches on the same held-out text, in bits per byte; 0 where none is held out.
  double three_gram_baseline() const {
    data::NgramModel model(3, data::kByteVocabulary);
    for (const data::SourceSplit& source : corpus_.sources) model.train(source.train.tokens);
    double bits = 0;
    int64_t bytes = 0;
    for (const data::SourceSplit& source : corpus_.sources) {
      const std::vector<uint16_t>& tokens = source.held_out.tokens;
      if (tokens.size() < 2) continue;
      bits += model.bits_per_token(tokens) * static_cast<double>(tokens.size() - 1);
      bytes += source.held_out.num_bytes - 1;
    }
    return bytes > 0 ? bits / static_cast<double>(bytes) : 0;
  }

  std::string memory_text() {
    int64_t weights = 0, gradients = 0;
    for (nn::ParameterBlock* block : {&trainer_.store().dense(), &trainer_.store().expert()}) {
      weights += block->weights.bytes();
      gradients += block->gradients.bytes() + block->sums.bytes();
    }
    return str("weights ", print_bytes(weights), ", gradients ", print_bytes(gradients), ", optimizer ",
               print_bytes(trainer_.optimizer().state_bytes()), ", activations ",
               print_bytes(trainer_.model().activation_bytes()), " per rank");
  }

  // --- steps -------------------------------------------------------------------------------------------------------

  void one_step() {
    const int64_t first = options_.overfit_batch ? 0 : trainer_.step() * config_.sequences_per_step();
    const StepResult result =
        trainer_.train_step(first, [this](int64_t sample, int32_t* tokens) { sampler_.read(sample, tokens); });
    last_loss_ = result.loss;
    trained_tokens_ += static_cast<double>(config_.batch_tokens());
    trained_seconds_ += result.seconds;
    window_.add();
    const double speed = static_cast<double>(config_.batch_tokens()) / result.seconds;
    const bool last = result.step == last_step();
    if (leads_ && !options_.dry_run) log_metrics(result, speed);
    if (result.step % config_.log.every.value == 0 || last || options_.dry_run) log_window(result, speed);
    if (last_step() < INT64_MAX) {
      console_.progress(result.step, last_step(), result.loss, mean_speed(),
                        static_cast<double>((last_step() - result.step) * config_.batch_tokens()) / mean_speed());
    }
    if (options_.dry_run || last) return;  // the last step is evaluated and saved by finish()
    if (config_.eval.every && result.step % config_.eval.every->value == 0) evaluate(config_.eval.max_tokens.value);
    if (config_.checkpoint.every && result.step % config_.checkpoint.every->value == 0) save();
  }

  void log_metrics(const StepResult& r, double speed) {
    const Json line = {{"step", r.step},
                       {"tokens", r.step * config_.batch_tokens()},
                       {"loss", r.loss},
                       {"aux_loss", r.aux_loss},
                       {"z_loss", r.z_loss},
                       {"grad_norm", r.grad_norm},
                       {"loss_z", number_or_null(r.loss_z)},
                       {"grad_norm_z", number_or_null(r.grad_norm_z)},
                       {"lr", r.lr},
                       {"tokens_per_second", speed},
                       {"step_seconds", r.seconds},
                       {"recomputed", r.recomputed}};
    directory_.append("metrics.jsonl", line.dump());
  }

  // One line of experts.jsonl and of the console for the steps since the last one.
  void log_window(const StepResult& result, double speed) {
    const LoadWindow::Summary load = window_.finish(result.step);
    console_.step({.result = result,
                   .tokens_per_second = speed,
                   .worst_load = load.worst_load,
                   .worst_layer = load.worst_layer,
                   .dropped_share = load.dropped_share});
    if (leads_ && !options_.dry_run && !load.json.empty()) directory_.append("experts.jsonl", load.json);
  }

  // Collective: whether any rank wants to stop.
  bool stop_agreed() {
    const bool time = config_.train.stop.time && monotonic_seconds() - started_ > config_.train.stop.time->seconds;
    int64_t wishes[2] = {signals_received.load() > 0 || (leads_ && directory_.stop_requested()) ? 1 : 0,
                         time && leads_ ? 1 : 0};
    groups_.world->all_reduce_max(Tensor(wishes, DType::i64, {2})).wait();
    time_is_up_ = wishes[1] != 0;
    return wishes[0] != 0 || wishes[1] != 0;
  }

  // --- evaluation and saving ---------------------------------------------------------------------------------------

  void evaluate(int64_t max_tokens) {
    const int64_t S = config_.train.seq_len;
    std::vector<EvalResult> results;
    EvalResult all{.set = "held_out"};
    double nats = 0;
    for (const data::SourceSplit& source : corpus_.sources) {
      if (source.held_out.tokens.size() < 2) continue;
      const int64_t share =
          max_tokens == 0 ? 0 : std::max<int64_t>(S, max_tokens / static_cast<int64_t>(corpus_.sources.size()));
      const EvalResult result = evaluator_.run(source.train.name, data::EvalWindows(source.held_out, S, share));
      all.tokens += result.tokens, all.bytes += result.bytes, nats += result.loss * static_cast<double>(result.tokens);
      results.push_back(result);
    }
    all.loss = all.tokens > 0 ? nats / static_cast<double>(all.tokens) : 0;
    if (!results.empty()) results.insert(results.begin(), all);
    for (const data::TokenSet& set : corpus_.ood)
      results.push_back(evaluator_.run("ood:" + set.name, data::EvalWindows(set, S, max_tokens)));
    if (results.empty()) return;
    const bool is_best = all.tokens > 0 && (!best_ || all.loss < *best_);
    if (is_best) best_ = all.loss;
    console_.evaluation(results, three_gram_, is_best);
    if (!leads_) return;
    Json sets = Json::array();
    for (const EvalResult& r : results) {
      sets.push_back({{"set", r.set},
                      {"loss", r.loss},
                      {"bpb", r.bits_per_byte()},
                      {"perplexity", r.perplexity()},
                      {"tokens", r.tokens}});
    }
    directory_.append("eval.jsonl", Json{{"step", trainer_.step()}, {"sets", sets}}.dump());
  }

  void save() {
    const double start = monotonic_seconds();
    const std::string path = save_trainer(trainer_, directory_.checkpoints(), config_.checkpoint.keep_last);
    console_.line("saved", str(path, " durable in ", print_duration(monotonic_seconds() - start)));
    saved_step_ = trainer_.step();
  }

  void finish() {
    if (saved_step_ != trainer_.step()) save();
    if (trainer_.step() >= last_step() || time_is_up_) evaluate(0);
  }

  Config config_;
  RunOptions options_;
  RunDirectory& directory_;
  comm::ParallelGroups& groups_;
  const data::Corpus& corpus_;
  bool leads_;
  Console console_;
  data::Sampler sampler_;
  Trainer trainer_;
  Evaluator evaluator_;
  LoadWindow window_;
  double started_ = monotonic_seconds(), trained_tokens_ = 0, trained_seconds_ = 0, last_loss_ = 0;
  std::optional<double> best_;
  double three_gram_ = 0;
  int64_t saved_step_ = -1;
  bool time_is_up_ = false;
};

}  // namespace

void catch_stop_signals() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  for (int number : {SIGINT, SIGTERM, SIGUSR1}) sigaction(number, &action, nullptr);
}

RunSummary run_training(const Config& config, const RunOptions& options, RunDirectory& directory,
                        comm::ParallelGroups& groups, const data::Corpus& corpus) {
  return Run(config, options, directory, groups, corpus).run();
}

}  // namespace engine::train
