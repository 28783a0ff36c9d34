// One training run in a run directory: start or resume, train, evaluate, save, stop.
#pragma once

#include <cstdint>
#include <string>

#include "comm/parallel_groups.h"
#include "engine/config/config.h"
#include "engine/data/corpus.h"
#include "engine/data/sampler.h"
#include "engine/train/console.h"
#include "engine/train/run_directory.h"
#include "engine/train/run_status.h"
#include "engine/train/trainer_checkpoint.h"

namespace engine::train {

struct RunOptions {
  ResumeOptions resume{};
  bool overfit_batch = false;  // the first batch in every step
  bool dry_run = false;        // everything up to and including one step; nothing is written
  Device device = Device::cpu;
  // Of the process that leads; null: nothing is said, no status.json is kept.
  Console* console = nullptr;
  RunStatus* status = nullptr;
  std::string command{}, version{};  // for command.txt and env.json
};

struct RunSummary {
  std::string status;  // "done", "stopped" or "already done"
  int64_t step = 0, tokens = 0;
  double loss = 0, tokens_per_second = 0;
  std::string digest{}, run_dir{};
  bool saved = false;  // there is a checkpoint of this step
  bool stopped() const { return status == "stopped"; }
};

// Collective over all ranks of `groups`; the first rank writes the logs. A signal on any rank (stop_request.h) or a
// file STOP in the directory ends the run at a step boundary, with a checkpoint of what there is to save.
RunSummary run_training(const Config& config, const RunOptions& options, RunDirectory& directory,
                        comm::ParallelGroups& groups, const data::Corpus& corpus);

}  // namespace engine::train
