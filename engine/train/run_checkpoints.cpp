#include "engine/train/run_checkpoints.h"

#include <sys/random.h>

#include <array>
#include <filesystem>

#include "comm/text.h"
#include "engine/checkpoint/preflight.h"
#include "engine/checkpoint/together.h"
#include "engine/config/units.h"
#include "engine/core/error.h"
#include "engine/train/initial_weights.h"
#include "engine/train/replicas.h"

namespace engine::train {
namespace {

// Another one for each run, the same on every rank.
std::string new_run_name(comm::Group& world) {
  std::array<uint8_t, 8> bytes{};
  if (getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) {
    throw Error(ExitCode::environment, "the system gives no random bytes for the run's name");
  }
  return comm::all_gather_text(world, to_hex(bytes.data(), bytes.size())).front();
}

}  // namespace

RunCheckpoints::~RunCheckpoints() {
  try {
    tell(saver_.wait());
  } catch (...) {
  }
}

void RunCheckpoints::start(Resume resume, const std::string& resume_path) {
  std::vector<std::string> problems;
  const std::string from = checkpoint_to_resume(directory_.checkpoints(), resume, resume_path, problems);
  for (const std::string& problem : problems) console_.warning(problem);
  find_lineage(from);
  if (from.empty()) {
    if (trainer_.config().train.init_from) console_.line("init", load_initial_weights(trainer_));
    trainer_.begin_digest();
    return;
  }
  restore_trainer(trainer_, from);
  console_.line("resume", str(from, ", step ", trainer_.step()));
}

// A run keeps its name when it goes on in its own directory; what it came from is an ancestor when something else
// than the layout has changed.
void RunCheckpoints::find_lineage(const std::string& from) {
  run_ = new_run_name(*trainer_.groups().world);
  ancestors_.clear();
  if (from.empty()) return;
  const checkpoint::TrainingState saved = checkpoint::Reader(from).state();
  std::error_code error;
  if (std::filesystem::equivalent(from + "/..", directory_.checkpoints(), error)) run_ = saved.run;
  ancestors_ = saved.ancestors;
  if (saved.run == run_ && saved.config_hash == save_request(trainer_).state.config_hash) return;
  ancestors_.push_back({.run = saved.run,
                        .digest = saved.digest,
                        .config_hash = saved.config_hash,
                        .text_hash = "",
                        .step = saved.step});
}

void RunCheckpoints::prepare() {
  saver_.prepare(save_request(trainer_));
  comm::Group& world = *trainer_.groups().world;
  int64_t bytes = saver_.snapshot_bytes();  // what is beside the tensors is small
  world.all_reduce_sum(Tensor(&bytes, DType::i64, {1})).wait();
  checkpoint::together(world, "", [&] {
    if (world.rank() != 0) return;
    const std::vector<std::string> removed =
        checkpoint::prepare_directory(directory_.checkpoints(), bytes, trainer_.config().checkpoint.keep_last);
    for (const std::string& name : removed) console_.line("removed", str(name, ", left by a save that did not end"));
  });
}

void RunCheckpoints::save() {
  if (saved_step_ == trainer_.step()) return;
  tell(saver_.wait());
  check_replicas(trainer_.table(), trainer_.groups());
  checkpoint::SaveRequest request = save_request(trainer_);
  request.state.run = run_;
  request.state.ancestors = ancestors_;
  saved_step_ = trainer_.step();
  saver_.begin(directory_.checkpoints(), std::move(request));
}

void RunCheckpoints::report() {
  tell(saver_.finished());
}

void RunCheckpoints::tell(const std::optional<checkpoint::Saver::Outcome>& outcome) {
  if (!outcome) return;
  last_failure_ = outcome->error;
  if (outcome->durable()) {
    saved_path_ = outcome->path;
    console_.line("saved", str(outcome->path, " durable in ", print_duration(outcome->seconds)));
    if (!outcome->warning.empty()) console_.warning(outcome->warning);
    return;
  }
  saved_step_ = -1;
  console_.warning(str(outcome->error, "; older checkpoints are untouched, and the next save tries again"));
}

std::string RunCheckpoints::wait_for_saved() {
  tell(saver_.wait());
  return saved_step_ == trainer_.step() ? saved_path_ : "";
}

void RunCheckpoints::restore(const std::string& path) {
  restore_trainer(trainer_, path);
  saver_.renew(save_request(trainer_));
}

void RunCheckpoints::finish() {
  tell(saver_.wait());
  save();
  tell(saver_.wait());
  if (last_failure_.empty()) return;
  throw Error(ExitCode::environment, str(last_failure_, "; the run ends at step ", trainer_.step(),
                                         " without its last checkpoint: make room in ", directory_.checkpoints(),
                                         " and run the same command again"));
}

}  // namespace engine::train
