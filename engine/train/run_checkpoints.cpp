#include "engine/train/run_checkpoints.h"

#include <sys/random.h>

#include <array>
#include <cstdlib>
#include <map>

#include "comm/text.h"
#include "engine/checkpoint/checkpoint.h"
#include "engine/checkpoint/preflight.h"
#include "engine/checkpoint/together.h"
#include "engine/config/units.h"
#include "engine/core/error.h"
#include "engine/train/initial_weights.h"
#include "engine/train/replicas.h"

namespace engine::train {
namespace {

constexpr char kPlacementLoad[] = "placement_load";

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

void RunCheckpoints::start(const ResumeOptions& options, bool only_looks, const std::function<void()>& found) {
  allow_change_ = options.allow_change;
  std::vector<std::string> problems;
  const std::string from = checkpoint_to_resume(directory_.checkpoints(), options, problems, *trainer_.groups().world);
  for (const std::string& problem : problems) console_.warning(problem);
  run_ = new_run_name(*trainer_.groups().world);
  if (from.empty()) {
    if (trainer_.config().train.init_from) console_.line("init", load_initial_weights(trainer_));
    trainer_.begin_digest();
    return;
  }
  const std::map<std::string, std::vector<double>> arrays = checkpoint::Reader(from).state().arrays;
  if (const auto load = arrays.find(kPlacementLoad); load != arrays.end()) placement_load_ = load->second;
  found();
  const std::vector<ConfigChange> changes = restore_trainer(trainer_, from, text_hash_, options.allow_change);
  console_.line("resume", str(from, ", step ", trainer_.step()));
  find_lineage(from, changes);
  for (const ConfigChange& change : changes) {
    if (change.kind == ChangeKind::free) {
      console_.line("change", change.text);
    } else {
      console_.warning(str("from here on the training takes another course: ", change.text));
    }
  }
  if (only_looks || !lies_in(from, directory_.checkpoints())) return;
  set_aside(trainer_.step());
  saved_step_ = trainer_.step();
}

// A run keeps its name when it goes on in its own directory; what it came from is an ancestor when something else
// than the layout has changed.
void RunCheckpoints::find_lineage(const std::string& from, const std::vector<ConfigChange>& changes) {
  const checkpoint::TrainingState saved = checkpoint::Reader(from).state();
  if (lies_in(from, directory_.checkpoints())) run_ = saved.run;
  ancestors_ = saved.ancestors;
  if (saved.run == run_ && changes.empty()) return;
  add_ancestor(saved);
  for (const ConfigChange& change : changes) {
    if (change.kind != ChangeKind::free) ancestors_.back().changes.push_back(change.text);
  }
}

void RunCheckpoints::add_ancestor(const checkpoint::TrainingState& saved) {
  ancestors_.push_back({.run = saved.run,
                        .digest = saved.digest,
                        .config_hash = saved.config_hash,
                        .text_hash = saved.text_hash,
                        .step = saved.step,
                        .changes = {}});
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
  if (trainer_.step() == 0 || saved_step_ == trainer_.step()) return;
  tell(saver_.wait());
  check_replicas(trainer_.table(), trainer_.groups());
  checkpoint::SaveRequest request = save_request(trainer_);
  request.state.run = run_;
  request.state.text_hash = text_hash_;
  request.state.ancestors = ancestors_;
  if (!placement_load_.empty()) request.state.arrays[kPlacementLoad] = placement_load_;
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
  restore_trainer(trainer_, path, text_hash_, allow_change_);
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

void RunCheckpoints::roll_back(const StepResult& spike, const std::vector<SampleOrder::Range>& samples) {
  tell(saver_.wait());
  SampleOrder order = trainer_.order();
  order.exclude(samples);
  SpikePolicy spikes = trainer_.spikes();
  spikes.count_rollback();
  if (spikes.rollbacks() > SpikePolicy::kMostRollbacks) {
    throw Error(ExitCode::numerical, str("step ", spike.step, " is a spike after ", SpikePolicy::kMostRollbacks,
                                         " rollbacks; look at the samples, lower optim.lr, or go on with --rollback "
                                         "and train.on_spike \"skip\""));
  }
  const std::string from = checkpoint_before_spike();
  if (from.empty()) {
    throw Error(ExitCode::numerical, str("step ", spike.step, " is a spike and there is no checkpoint in ",
                                         directory_.checkpoints(), " to go back to; set checkpoint.every"));
  }
  restore(from);
  trainer_.order() = order;
  trainer_.spikes() = spikes;
  const std::string event = str("rollback from step ", spike.step, " to ", trainer_.step(), " without samples ",
                                ranges_text(order.excluded()));
  add_ancestor(checkpoint::Reader(from).state());
  ancestors_.back().changes.push_back(event);
  trainer_.add_to_digest(event);
  set_aside(trainer_.step());
  saved_step_ = trainer_.step();
  console_.line("rollback", str("to ", from, "; samples ", ranges_text(samples), " are left out from now on"));
}

// The newest that the run saved of its own accord, so that it does not matter where it was stopped; otherwise the
// newest of all.
std::string RunCheckpoints::checkpoint_before_spike() {
  comm::Group& world = *trainer_.groups().world;
  const std::optional<Count>& every = trainer_.config().checkpoint.every;
  std::vector<std::string> problems;
  for (const std::string& name : checkpoint::list_checkpoints(directory_.checkpoints())) {
    const int64_t step = std::atoll(name.c_str() + std::string("step-").size());
    if (!every || step % every->value != 0) continue;
    const std::string path = directory_.checkpoints() + "/" + name;
    if (checkpoint::verify_checkpoint(path, world).empty()) return path;
  }
  return checkpoint::newest_whole_checkpoint(directory_.checkpoints(), problems, world);
}

void RunCheckpoints::set_aside(int64_t step) {
  comm::Group& world = *trainer_.groups().world;
  world.barrier();  // everyone has listed and read what there is
  if (world.rank() == 0) {
    for (const std::string& name : checkpoint::set_aside_after(directory_.checkpoints(), step)) {
      console_.line("kept", directory_.checkpoints() + "/" + name);
    }
  }
  world.barrier();
}

}  // namespace engine::train
