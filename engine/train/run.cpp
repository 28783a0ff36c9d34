#include "engine/train/run.h"

#include <cmath>
#include <optional>

#include "engine/config/canonical.h"
#include "engine/config/origins.h"
#include "engine/config/parameter_count.h"
#include "engine/config/units.h"
#include "engine/core/device.h"
#include "engine/core/error.h"
#include "engine/core/stop_request.h"
#include "engine/core/thread_pool.h"
#include "engine/train/console.h"
#include "engine/train/placement_file.h"
#include "engine/train/run_checkpoints.h"
#include "engine/train/run_environment.h"
#include "engine/train/run_evaluation.h"
#include "engine/train/run_log.h"
#include "engine/train/spike_report.h"
#include "engine/train/trainer.h"

namespace engine::train {
namespace {

constexpr double kWorthMoving = 0.98;  // of the fullest ranks' rows

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
        silent_({.mute = !leads_}),
        console_(leads_ && options.console != nullptr ? *options.console : silent_),
        sampler_(corpus, config.train.seq_len, static_cast<uint64_t>(config.seed)),
        placement_(initial_placement(config, groups.ep->size())),
        trainer_(std::in_place, config, groups, placement_, options.device),
        checkpoints_(*trainer_, directory, corpus.text_hash(), console_),
        log_(*trainer_, corpus, sampler_, written_directory(), console_, options.status),
        evaluation_(*trainer_, corpus, written_directory(), console_) {}

  RunSummary run() {
    if (!start()) return {.status = "stopped", .run_dir = directory_.path()};
    if (!options_.dry_run) checkpoints_.prepare();
    if (written_directory()) write_what_was_given();
    log_.begin(last_step());
    describe();
    RunSummary summary{.status = "done", .run_dir = directory_.path()};
    if (trainer_->step() >= last_step() && !options_.dry_run) summary.status = "already done";
    evaluate_if_missing();
    while (trainer_->step() < last_step() && !stop_agreed()) {
      one_step();
      if (options_.dry_run) break;
    }
    if (!options_.dry_run && !finish()) summary.status = "stopped";
    summary.saved = !options_.dry_run && trainer_->step() > 0;
    summary.step = trainer_->step();
    summary.tokens = trainer_->step() * config_.batch_tokens();
    summary.loss = last_loss_;
    summary.tokens_per_second = log_.mean_speed();
    summary.digest = trainer_->digest();
    return summary;
  }

 private:
  int64_t last_step() const { return trainer_->total_steps() > 0 ? trainer_->total_steps() : INT64_MAX; }
  // Where this rank writes logs; null if it writes none.
  RunDirectory* written_directory() const { return leads_ && !options_.dry_run ? &directory_ : nullptr; }

  // --- start -------------------------------------------------------------------------------------------------------

  // False if a stop was requested while checkpoints were read.
  bool start() {
    try {
      checkpoints_.start(options_.resume, options_.dry_run, [this] { take_placement(); });
      return true;
    } catch (const Error& error) {
      if (error.code() != ExitCode::stopped) throw;
      return false;
    }
  }

  void write_what_was_given() {
    directory_.write("config.json", config_.text.empty() ? canonical_json(config_) : config_.text);
    directory_.write("config.resolved.json", resolved_json(config_));
    directory_.write("env.json", environment_json(options_.version, groups_, current_threads()));
    directory_.append_bytes("command.txt", options_.command);
    directory_.write("data.manifest.json", corpus_.manifest);
    abandon_later_lines();
  }

  // Logs speak of each step once.
  void abandon_later_lines() {
    for (const char* log : {"metrics.jsonl", "experts.jsonl", "eval.jsonl"}) {
      directory_.abandon_after(log, trainer_->step());
    }
  }

  void describe() {
    const ParameterCount parameters = count_parameters(config_.model);
    console_.line("run", directory_.path());
    console_.line("ranks",
                  str(groups_.world->size(), " as ", groups_.world->transport(), ", ep_size ", groups_.ep->size(), ", ",
                      current_threads(), " threads each, cpu ", cpu_target_name(cpu_target())));
    if (options_.device == Device::cuda) console_.line("device", str(device_name(), ", ", config_.train.precision));
    if (!config_.parallel.ep_size.value && groups_.world->size() > 1 && config_.model.num_moe_layers() > 0) {
      console_.line("ep_size",
                    str(groups_.ep->size(), " for \"auto\": the largest that divides the ranks and is at most the ",
                        config_.model.num_experts, " experts, so that each rank holds as few as can be"));
    }
    for (const std::string& source : corpus_.summary(config_.data.held_out.ngram)) console_.line("data", source);
    console_.line("model", str(config_.model.num_hidden_layers, " layers, ", config_.model.num_experts,
                               " experts, top-", config_.model.num_experts_per_tok, ": ", print_count(parameters.total),
                               " parameters, ", print_count(parameters.active), " active"));
    console_.line("memory", memory_text());
    if (leads_) evaluation_.begin();
    if (config_.model.router.force == "uniform")
      console_.warning("model.router.force is \"uniform\": experts are not chosen by the router");
  }

  std::string memory_text() {
    int64_t weights = 0, gradients = 0;
    for (nn::ParameterBlock* block : {&trainer_->store().dense(), &trainer_->store().expert()}) {
      weights += block->weights.bytes();
      gradients += block->chains.bytes() + block->sums.bytes();
    }
    return str("weights ", print_bytes(weights), ", gradients ", print_bytes(gradients), ", optimizer ",
               print_bytes(trainer_->optimizer().state_bytes()), ", activations ",
               print_bytes(trainer_->model().activation_bytes()), ", copy for checkpoints ",
               print_bytes(checkpoints_.snapshot_bytes()), " per rank");
  }

  // --- steps -------------------------------------------------------------------------------------------------------

  void one_step() {
    const int64_t first = options_.overfit_batch ? 0 : trainer_->step() * config_.sequences_per_step();
    log_.begin_step(first);
    const StepResult result =
        trainer_->train_step(first, [this](int64_t sample, int32_t* tokens) { sampler_.read(sample, tokens); });
    last_loss_ = result.loss;
    stepped_ = true;
    if (result.spike != SpikeAction::none) tell_of_spike(result, first);
    if (result.spike == SpikeAction::rollback) return;
    const bool last = result.step == last_step();
    log_.step(result, result.step % config_.log.every.value == 0 || last || options_.dry_run, seconds_left());
    checkpoints_.report();
    if (options_.dry_run || last) return;  // the last step is evaluated and saved by finish()
    if (is_evaluated(result.step)) evaluate();
    if (config_.checkpoint.every && result.step % config_.checkpoint.every->value == 0) save();
  }

  // With parallel.expert_placement "auto" experts change ranks where that makes the fullest rank of the steps since the
  // last time smaller. The checkpoint knows of it, so that a run that goes on from there has the new placement.
  void save() {
    const std::vector<double> before = checkpoints_.placement_load();
    const bool moves = config_.parallel.expert_placement == "auto" && choose_placement();
    checkpoints_.save();
    if (moves && !move_experts()) checkpoints_.set_placement_load(before);
  }

  // Whether experts are to be placed by the load since the last time.
  bool choose_placement() {
    const std::vector<std::vector<int64_t>> load_LE = log_.take_load();
    const int64_t ranks = groups_.ep->size();
    if (ranks == 1 || load_LE.empty()) return false;
    std::vector<double> load;
    for (const std::vector<int64_t>& layer : load_LE) load.insert(load.end(), layer.begin(), layer.end());
    const moe::ExpertPlacement next = spread_by_load(load, config_.model, ranks);
    int64_t before = 0, after = 0;
    for (size_t l = 0; l < load_LE.size(); ++l) {
      before += moe::fullest_rank(load_LE[l], placement_.layer(l, config_.model.num_experts, ranks), ranks);
      after += moe::fullest_rank(load_LE[l], next.rank_of_expert_LE[l], ranks);
    }
    if (static_cast<double>(after) > kWorthMoving * static_cast<double>(before)) return false;
    console_.line("experts",
                  str("to be placed anew: the fullest ranks had ", before, " rows and would have had ", after));
    checkpoints_.set_placement_load(std::move(load));
    return true;
  }

  // The model is built anew on the other placement and continued from the checkpoint just saved, which any layout can
  // do. False if that could not be saved.
  bool move_experts() {
    const std::string saved = checkpoints_.wait_for_saved();
    if (saved.empty()) return false;
    place_experts();
    checkpoints_.restore(saved);
    return true;
  }

  void place_experts() {
    placement_ = spread_by_load(checkpoints_.placement_load(), config_.model, groups_.ep->size());
    trainer_.emplace(config_, groups_, placement_, options_.device);
    log_.trainer_replaced();
  }

  // The placement of the checkpoint that the run goes on from, for the ranks there are now.
  void take_placement() {
    const int64_t counts = config_.model.num_moe_layers() * config_.model.num_experts;
    const bool fits = static_cast<int64_t>(checkpoints_.placement_load().size()) == counts;  // else of another model
    if (config_.parallel.expert_placement != "auto" || groups_.ep->size() == 1 || counts == 0 || !fits) return;
    console_.line("experts", "placed by the load of the checkpoint");
    place_experts();
  }

  // Until train.stop.time is over; infinite without it.
  double seconds_left() const {
    return config_.train.stop.time ? config_.train.stop.time->seconds - (monotonic_seconds() - started_) : INFINITY;
  }

  void say_activity(const char* text) {
    if (written_directory() && options_.status != nullptr) options_.status->activity(text);
  }

  bool is_evaluated(int64_t step) const {
    return step >= last_step() || (config_.eval.every && step % config_.eval.every->value == 0);
  }
  // What a run that was stopped meanwhile still owes.
  void evaluate_if_missing() {
    if (trainer_->step() > 0 && !options_.dry_run && is_evaluated(trainer_->step()) && evaluation_.is_missing()) {
      evaluate();
    }
  }
  bool evaluate() { return evaluate(trainer_->step() >= last_step() ? 0 : config_.eval.max_tokens.value); }
  bool evaluate(int64_t max_tokens) {
    say_activity("evaluating");
    const EvaluationReport& report = evaluation_.run(max_tokens);
    say_activity("training");
    if (evaluation_.stopped()) return false;
    log_.evaluation(report);
    return true;
  }

  // Says where the samples come from; a rollback also happens here.
  void tell_of_spike(const StepResult& result, int64_t first) {
    const std::vector<SampleOrder::Range> samples = trainer_->order().samples(first, config_.sequences_per_step());
    const char* const what = result.spike == SpikeAction::log    ? "its update is applied"
                             : result.spike == SpikeAction::skip ? "its update is left out"
                                                                 : "the run goes back";
    console_.warning(str(spike_text(result), "; ", what, "; samples ", ranges_text(samples), " from ",
                         documents_of(samples, corpus_, sampler_, config_.train.seq_len)));
    if (result.spike != SpikeAction::rollback) return;
    checkpoints_.roll_back(result, samples);
    if (written_directory()) abandon_later_lines();
  }

  // Collective: whether any rank wants to stop.
  bool stop_agreed() {
    const bool time = seconds_left() < 0;
    // a file STOP that was left behind lets each run take one step
    int64_t wishes[3] = {stop_requested() || (leads_ && stepped_ && directory_.stop_requested()) ? 1 : 0,
                         time && leads_ ? 1 : 0, trainer_->model().row_bytes()};
    groups_.world->all_reduce_max(Tensor(wishes, DType::i64, {3})).wait();
    time_is_up_ = wishes[1] != 0;
    if (wishes[2] > row_bytes_) {
      if (row_bytes_ > 0) {
        console_.line("memory", str("room for rows at the experts grew from ", print_bytes(row_bytes_), " to ",
                                    print_bytes(wishes[2]), " on the fullest rank, step ", trainer_->step()));
      }
      row_bytes_ = wishes[2];
    }
    return wishes[0] != 0 || wishes[1] != 0;
  }

  // False if the run is to be gone on with.
  bool finish() {
    say_activity("saving");
    console_.activity("saving");
    checkpoints_.finish();
    console_.activity("");
    say_activity("training");
    if (trainer_->step() < last_step() && !time_is_up_) return false;
    return (trainer_->step() >= last_step() && !evaluation_.is_missing()) || evaluate(0);
  }

  Config config_;
  RunOptions options_;
  RunDirectory& directory_;
  comm::ParallelGroups& groups_;
  const data::Corpus& corpus_;
  bool leads_;
  Console silent_;
  Console& console_;
  data::Sampler sampler_;
  moe::ExpertPlacement placement_;
  std::optional<Trainer> trainer_;  // the others refer to it, wherever its experts are
  RunCheckpoints checkpoints_;
  RunLog log_;
  RunEvaluation evaluation_;
  double started_ = monotonic_seconds(), last_loss_ = 0;
  int64_t row_bytes_ = 0;  // for rows at the experts, on the fullest rank
  bool time_is_up_ = false, stepped_ = false;
};

}  // namespace

RunSummary run_training(const Config& config, const RunOptions& options, RunDirectory& directory,
                        comm::ParallelGroups& groups, const data::Corpus& corpus) {
  return Run(config, options, directory, groups, corpus).run();
}

}  // namespace engine::train
