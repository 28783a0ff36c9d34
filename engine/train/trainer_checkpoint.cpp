#include "engine/train/trainer_checkpoint.h"

#include <algorithm>
#include <filesystem>
#include <optional>
#include <set>

#include "engine/checkpoint/file_system.h"
#include "engine/config/canonical.h"
#include "engine/config/parameter_count.h"
#include "engine/config/reader.h"
#include "engine/core/error.h"
#include "engine/core/hash.h"
#include "engine/data/tokenizer.h"
#include "engine/huggingface/family.h"
#include "engine/train/loaded_model.h"

namespace engine::train {

namespace {

template <class... Parts>
[[noreturn]] void refuse(const Parts&... parts) {
  throw Error(ExitCode::checkpoint, str(parts...));
}

std::string joined(const std::vector<std::string>& problems) {
  std::string list;
  for (const std::string& problem : problems) list += "; " + problem;
  return list;
}

// A checkpoint that was asked for by name: it has to be whole.
std::string verified(const std::string& path, comm::Group& world) {
  const std::vector<std::string> problems = checkpoint::verify_checkpoint(path, world);
  if (!problems.empty()) refuse(path, " is not whole", joined(problems));
  return path;
}

std::string checkpoint_of_step(const std::string& directory, int64_t step, comm::Group& world) {
  const std::vector<std::string> names = checkpoint::list_checkpoints(directory);
  const std::string name = checkpoint::checkpoint_name(step);
  if (std::find(names.begin(), names.end(), name) != names.end()) return verified(directory + "/" + name, world);
  std::string list;
  for (const std::string& there : names) list += (list.empty() ? "; there are " : ", ") + there;
  refuse("there is no checkpoint ", name, " in ", directory, list);
}

// What is left of checkpoints where none is called step-*: an interrupted save, or what was set aside.
std::string leftovers(const std::string& directory) {
  std::string list;
  for (const std::string& name : checkpoint::names_in(directory)) {
    if (name.starts_with(".tmp-") || name.starts_with("abandoned-")) list += (list.empty() ? "" : ", ") + name;
  }
  return list;
}

}  // namespace

bool lies_in(const std::string& checkpoint, const std::string& directory) {
  std::error_code error;
  return std::filesystem::equivalent(checkpoint + "/..", directory, error);
}

std::string checkpoint_to_resume(const std::string& directory, const ResumeOptions& options,
                                 std::vector<std::string>& problems, comm::Group& world) {
  if (options.rollback) return checkpoint_of_step(directory, *options.rollback, world);
  const bool has_some = !checkpoint::list_checkpoints(directory).empty();
  if (options.mode == Resume::path) {
    const std::string path = resolve_checkpoint(options.path);
    if (!has_some || lies_in(path, directory)) return verified(path, world);
    refuse(directory, " has checkpoints of its own, and nothing is overwritten; use another --run-dir to go on from ",
           path);
  }
  if (options.mode == Resume::never) {
    if (!has_some) return "";
    refuse(directory,
           " has checkpoints already, and nothing is overwritten; use another --run-dir, or --resume auto to go on");
  }
  const std::string newest = checkpoint::newest_whole_checkpoint(directory, problems, world);
  if (!newest.empty()) return newest;
  if (has_some) refuse("no checkpoint in ", directory, " is whole", joined(problems));
  if (const std::string left = leftovers(directory); !left.empty()) {
    refuse(directory, " holds no checkpoint but ", left,
           ": nothing to go on from was ever durable, or it is gone; --resume never begins from the start");
  }
  if (options.mode == Resume::must) refuse("there is no checkpoint in ", directory, " to resume from");
  return "";
}

namespace {

std::vector<checkpoint::MomentSlice> moment_slices(Trainer& trainer) {
  std::vector<checkpoint::MomentSlice> slices;
  const Device device = trainer.store().device();
  for (OptimizerSlice& s : trainer.optimizer().slices()) {
    slices.push_back({s.parameter->spec.name, s.begin, s.count, s.exp_avg, s.exp_avg_sq, &s.updated, device});
  }
  return slices;
}

std::string absolute(const std::string& directory) {
  return std::filesystem::absolute(directory.empty() ? "." : directory).lexically_normal().string();
}

// The checkpoint holds every weight of the model, those of other ranks included, and no other.
void check_weights(const checkpoint::Reader& reader, const TensorTable& table) {
  std::string problems;
  std::set<std::string> known;
  for (const TensorTable::Entry& entry : table.entries()) {
    known.insert(entry.name);
    if (!reader.manifest().weights.contains(entry.name)) problems += str("; ", entry.name, " is missing");
  }
  for (const auto& [name, weight] : reader.manifest().weights) {
    if (!known.contains(name)) problems += str("; ", name, " is no weight of the model");
  }
  if (!problems.empty()) throw Error(ExitCode::checkpoint, str(reader.path(), " is of another model", problems));
}

// A text that is another one counts as a change of identity called "data".
void add_text_change(const std::string& saved, const std::string& ours, std::vector<ConfigChange>& changes) {
  if (saved.empty() || ours.empty() || saved == ours) return;
  changes.push_back({.key = "data",
                     .text = str("the text: hash ", saved.substr(0, 16), " there, ", ours.substr(0, 16), " here"),
                     .kind = ChangeKind::identity});
}

// Weights and config.json as transformers opens them, if it has a family for the model.
void describe_for_transformers(const Config& config, checkpoint::SaveRequest& request) {
  const huggingface::Family family = huggingface::family_of(config.model);
  if (!family) return;
  request.tensor_name = [family](const std::string& name) { return huggingface::file_name(family, name); };
  std::optional<int64_t> end_token;
  if (config.model.vocabulary() > data::kEndOfDocument) end_token = data::kEndOfDocument;
  request.extra_files["config.json"] = huggingface::config_json(family, config.model, end_token);
  request.extra_files["generation_config.json"] = huggingface::generation_config_json(end_token);
}

}  // namespace

checkpoint::SaveRequest save_request(Trainer& trainer) {
  const Config& config = trainer.config();
  trainer.optimizer().fetch_updated();
  checkpoint::SaveRequest request{.store = &trainer.store(),
                                  .moments = moment_slices(trainer),
                                  .keep_last = config.checkpoint.keep_last,
                                  .elements = count_parameters(config.model).total};
  for (const TensorTable::Entry& entry : trainer.table().entries()) request.weights[entry.name] = entry.elements;
  checkpoint::TrainingState& state = request.state;
  state.step = trainer.step();
  state.tokens = trainer.step() * config.batch_tokens();
  state.digest = trainer.digest();
  state.next_sample = trainer.step() * config.sequences_per_step();
  state.total_steps = trainer.total_steps();
  state.seed = config.seed;
  state.config = canonical_json(config);
  state.config_hash = to_hex(sha256(state.config.data(), static_cast<int64_t>(state.config.size())));
  state.config_directory = absolute(config.directory);
  state.arrays["gradient_bounds"] = trainer.grid().bounds();
  state.arrays["loss_history"] = trainer.loss_history().history();
  state.arrays["grad_norm_history"] = trainer.norm_history().history();
  state.arrays["excluded_samples"] = trainer.order().state();
  state.arrays["spikes"] = trainer.spikes().state();
  put_balance_state(trainer.model(), state);
  describe_for_transformers(config, request);
  return request;
}

std::vector<ConfigChange> restore_trainer(Trainer& trainer, const std::string& path, const std::string& text_hash,
                                          const std::vector<std::string>& allow_change) {
  const checkpoint::Reader reader(path);
  const checkpoint::TrainingState& state = reader.state();
  std::vector<ConfigChange> changes =
      config_changes(parse_config(state.config, path + "/state.json", {}), trainer.config());
  add_text_change(state.text_hash, text_hash, changes);
  check_changes(changes, allow_change);
  check_weights(reader, trainer.table());
  reader.load_weights(trainer.store());
  std::vector<checkpoint::MomentSlice> slices = moment_slices(trainer);
  reader.load_moments(slices);
  take_balance_state(state, trainer.model());
  const auto array = [&](const char* name) {
    const auto found = state.arrays.find(name);
    return found == state.arrays.end() ? std::vector<double>() : found->second;
  };
  trainer.grid().set_bounds(array("gradient_bounds"));
  trainer.loss_history().set_history(array("loss_history"));
  trainer.norm_history().set_history(array("grad_norm_history"));
  trainer.order().set_state(array("excluded_samples"));
  trainer.spikes().set_state(array("spikes"));
  trainer.resume(state.step, state.digest);
  return changes;
}

}  // namespace engine::train
