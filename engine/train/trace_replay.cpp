#include "engine/train/trace_replay.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>

#include "engine/config/json_reader.h"
#include "engine/core/error.h"
#include "engine/data/sampler.h"
#include "engine/train/load_recorder.h"
#include "engine/train/trainer_checkpoint.h"

namespace engine::train {
namespace {

using Losses = std::map<int64_t, double>;  // by step

Losses recorded_losses(const std::string& run) {
  Losses losses;
  std::ifstream file(run + "/metrics.jsonl");
  for (std::string text; std::getline(file, text) && !file.eof();) {
    const JsonValue line = read_json(text, {.max_bytes = int64_t{1} << 20}, ExitCode::data);
    losses[line.at("step", ExitCode::data).integer] = line.at("loss", ExitCode::data).number;
  }
  return losses;
}

void check_steps(const TraceReplay& replay, const Losses& losses) {
  for (int64_t step : replay.steps) {
    if (losses.contains(step)) continue;
    const std::string taken = losses.empty() ? "none" : str(losses.begin()->first, " to ", losses.rbegin()->first);
    throw Error(ExitCode::usage, str("step ", step, " of --trace is not in ", replay.run, "/metrics.jsonl, which has ",
                                     taken, "; choose steps that the run has taken"));
  }
}

// The newest whole checkpoint from which a step can be done.
std::string checkpoint_before(const std::string& directory, int64_t step) {
  int64_t oldest = 0;
  std::string problems;
  for (const std::string& name : checkpoint::list_checkpoints(directory)) {
    oldest = std::atoll(name.c_str() + std::string("step-").size());
    if (oldest >= step) continue;
    const std::vector<std::string> found = checkpoint::verify_checkpoint(directory + "/" + name);
    if (found.empty()) return directory + "/" + name;
    problems += "; " + found[0];
  }
  throw Error(ExitCode::checkpoint,
              str("step ", step, " cannot be traced: ", directory, " has no whole checkpoint before it", problems,
                  oldest > 0 ? str("; the oldest is of step ", oldest) : "",
                  "; choose later steps, or train with log.expert_trace_steps"));
}

// Trains on from a checkpoint to the last of `steps` and traces those.
int64_t train_on(const TraceReplay& replay, const std::string& from, const std::vector<int64_t>& steps,
                 const data::Corpus& corpus, const Losses& losses) {
  comm::ParallelGroups groups = comm::make_parallel_groups(comm::make_self_group(), 1);
  Trainer trainer(replay.config, groups);
  restore_trainer(trainer, from, corpus.text_hash());
  const data::Sampler sampler(corpus, replay.config.train.seq_len, static_cast<uint64_t>(replay.config.seed));
  const auto source_of = [&sampler](int64_t sample) { return sampler.source_of(sample); };
  LoadRecorder recorder(trainer, source_names(corpus), source_of);
  TraceRecorder trace(trainer, source_names(corpus), source_of, steps, replay.path);
  recorder.trace_with(&trace);
  int64_t trained = 0;
  for (; trainer.step() < steps.back(); ++trained) {
    const int64_t first = trainer.step() * replay.config.sequences_per_step();
    recorder.begin_step(first);
    trace.begin_step(first);
    const StepResult result =
        trainer.train_step(first, [&](int64_t sample, int32_t* tokens) { sampler.read(sample, tokens); });
    const auto recorded = losses.find(result.step);
    if (result.spike == SpikeAction::rollback || recorded == losses.end() || recorded->second != result.loss) {
      throw Error(ExitCode::data,
                  str("step ", result.step, " does not come out as it did: its loss is ", number_text(result.loss),
                      recorded == losses.end() ? "" : str(" and was ", number_text(recorded->second)),
                      "; the config has changed since, or the run went back; choose a step right after a checkpoint"));
    }
    recorder.end_step(result);
    if (!trace.end_step(result)) {
      throw Error(ExitCode::environment, str("cannot write ", replay.path, "; give another path"));
    }
  }
  return trained;
}

}  // namespace

int64_t replay_trace(const TraceReplay& replay) {
  const Losses losses = recorded_losses(replay.run);
  check_steps(replay, losses);
  std::map<std::string, std::set<int64_t>> steps_from;  // checkpoint, in the order of their steps
  for (int64_t step : replay.steps) steps_from[checkpoint_before(replay.run + "/checkpoints", step)].insert(step);
  TraceReplay with_directory = replay;
  Config& config = with_directory.config;
  config.directory = checkpoint::Reader(steps_from.begin()->first).state().config_directory;
  const data::Corpus corpus = data::prepare_corpus(config.data, config.directory, static_cast<uint64_t>(config.seed),
                                                   config.model.vocabulary());
  int64_t trained = 0;
  for (const auto& [from, steps] : steps_from) {
    replay.say(str("from ", from, " to step ", *steps.rbegin()));
    trained += train_on(with_directory, from, {steps.begin(), steps.end()}, corpus, losses);
  }
  return trained;
}

}  // namespace engine::train
