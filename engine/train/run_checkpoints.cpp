#include "engine/train/run_checkpoints.h"

#include <vector>

#include "engine/config/units.h"
#include "engine/core/error.h"
#include "engine/train/initial_weights.h"

namespace engine::train {

void RunCheckpoints::start(Resume resume, const std::string& resume_path) {
  std::vector<std::string> problems;
  const std::string from = checkpoint_to_resume(directory_.checkpoints(), resume, resume_path, problems);
  for (const std::string& problem : problems) console_.warning(problem);
  if (from.empty()) {
    if (trainer_.config().train.init_from) console_.line("init", load_initial_weights(trainer_));
    trainer_.begin_digest();
    return;
  }
  restore_trainer(trainer_, from);
  console_.line("resume", str(from, ", step ", trainer_.step()));
}

void RunCheckpoints::save() {
  if (saved_step_ == trainer_.step()) return;
  const double start = monotonic_seconds();
  const std::string path = save_trainer(trainer_, directory_.checkpoints(), trainer_.config().checkpoint.keep_last);
  console_.line("saved", str(path, " durable in ", print_duration(monotonic_seconds() - start)));
  saved_step_ = trainer_.step();
}

}  // namespace engine::train
