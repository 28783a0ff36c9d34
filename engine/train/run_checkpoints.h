// Which checkpoint a run goes on from, and the ones it leaves behind.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/checkpoint/saver.h"
#include "engine/train/console.h"
#include "engine/train/run_directory.h"
#include "engine/train/trainer.h"
#include "engine/train/trainer_checkpoint.h"

namespace engine::train {

class RunCheckpoints {
 public:
  // Collective, like all the rest. `text_hash`: of the corpus.
  RunCheckpoints(Trainer& trainer, RunDirectory& directory, const std::string& text_hash, Console& console)
      : trainer_(trainer), directory_(directory), text_hash_(text_hash), console_(console), saver_(trainer.groups()) {}
  // Waits for a save that is under way.
  ~RunCheckpoints();

  // Restores the checkpoint to go on from; otherwise begins anew, from train.init_from where it is given. Later
  // checkpoints of the run, which are damaged or given up, are set aside, unless the run `only_looks`. `found` is
  // called before a checkpoint is restored and may build the trainer anew in its place.
  void start(const ResumeOptions& options, bool only_looks, const std::function<void()>& found);
  // Looks whether the checkpoints to come can be written, and takes the memory for them.
  // Throws Error(environment) with the numbers.
  void prepare();
  // Begins to save the state after the last step, unless that was done; training may go on. Waits for an earlier save.
  void save();
  // Says what became of a save that has ended meanwhile. One that failed does no harm: the next one tries again.
  void report();
  // The state after the last step is durable when this returns. Throws Error(environment) if it cannot be saved.
  void finish();
  // Waits for the save that is under way; the checkpoint of the last step, "" if it could not be saved.
  std::string wait_for_saved();
  // A trainer built anew in the place of the last one takes that state.
  void restore(const std::string& path);
  // After a spike: back to the newest checkpoint, and on without `samples`. Throws Error(numerical) if there is none,
  // or after SpikePolicy::kMostRollbacks.
  void roll_back(const StepResult& spike, const std::vector<SampleOrder::Range>& samples);

  // The load by which experts are placed, [MoE layers][experts] choices in one row: part of every checkpoint, so that a
  // run goes on with the placement it had. Empty: consecutive experts.
  const std::vector<double>& placement_load() const { return placement_load_; }
  void set_placement_load(std::vector<double> load) { placement_load_ = std::move(load); }

  int64_t snapshot_bytes() const { return saver_.snapshot_bytes(); }

 private:
  void find_lineage(const std::string& from, const std::vector<ConfigChange>& changes);
  void tell(const std::optional<checkpoint::Saver::Outcome>& outcome);
  void add_ancestor(const checkpoint::TrainingState& saved);
  void set_aside(int64_t step);
  std::string checkpoint_before_spike();

  Trainer& trainer_;
  RunDirectory& directory_;
  std::string text_hash_;
  std::vector<std::string> allow_change_{};
  Console& console_;
  checkpoint::Saver saver_;
  std::string run_;  // see TrainingState
  std::vector<checkpoint::Ancestor> ancestors_;
  std::vector<double> placement_load_;
  int64_t saved_step_ = -1;   // durable or under way
  std::string saved_path_;    // the last durable one
  std::string last_failure_;  // of the last save that ended; empty: it is durable
};

}  // namespace engine::train
