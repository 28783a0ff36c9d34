// Which checkpoint a run goes on from, and the ones it leaves behind.
#pragma once

#include <cstdint>
#include <string>

#include "engine/train/console.h"
#include "engine/train/run_directory.h"
#include "engine/train/trainer.h"
#include "engine/train/trainer_checkpoint.h"

namespace engine::train {

class RunCheckpoints {
 public:
  RunCheckpoints(Trainer& trainer, RunDirectory& directory, Console& console)
      : trainer_(trainer), directory_(directory), console_(console) {}

  // Collective. Restores the checkpoint to go on from; otherwise begins anew, from train.init_from where it is given.
  void start(Resume resume, const std::string& resume_path);
  // Collective. The state after the last step becomes a checkpoint, unless it is one already.
  void save();

 private:
  Trainer& trainer_;
  RunDirectory& directory_;
  Console& console_;
  int64_t saved_step_ = -1;
};

}  // namespace engine::train
