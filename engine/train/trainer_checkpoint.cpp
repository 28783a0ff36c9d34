#include "engine/train/trainer_checkpoint.h"

#include <filesystem>
#include <optional>

#include "engine/config/canonical.h"
#include "engine/config/config_difference.h"
#include "engine/config/parameter_count.h"
#include "engine/config/reader.h"
#include "engine/core/error.h"
#include "engine/core/hash.h"
#include "engine/data/tokenizer.h"
#include "engine/huggingface/family.h"
#include "engine/train/loaded_model.h"

namespace engine::train {

std::string checkpoint_to_resume(const std::string& directory, Resume resume, const std::string& resume_path,
                                 std::vector<std::string>& problems) {
  if (resume == Resume::path) return resolve_checkpoint(resume_path);
  const bool has_some = !checkpoint::list_checkpoints(directory).empty();
  if (resume == Resume::never && has_some) {
    throw Error(ExitCode::checkpoint, str(directory,
                                          " has checkpoints already, and nothing is overwritten; use another "
                                          "--run-dir, or --resume auto to go on"));
  }
  const std::string newest = checkpoint::newest_whole_checkpoint(directory, problems);
  if (newest.empty() && has_some) {
    std::string list;
    for (const std::string& problem : problems) list += "; " + problem;
    throw Error(ExitCode::checkpoint, str("no checkpoint in ", directory, " is whole", list));
  }
  if (newest.empty() && resume == Resume::must) {
    throw Error(ExitCode::checkpoint, str("there is no checkpoint in ", directory, " to resume from"));
  }
  return newest;
}

namespace {

std::vector<checkpoint::MomentSlice> moment_slices(Trainer& trainer) {
  std::vector<checkpoint::MomentSlice> slices;
  for (OptimizerSlice& s : trainer.optimizer().slices()) {
    slices.push_back({s.parameter->spec.name, s.begin, s.count, s.exp_avg, s.exp_avg_sq, &s.updated});
  }
  return slices;
}

std::string absolute(const std::string& directory) {
  return std::filesystem::absolute(directory.empty() ? "." : directory).lexically_normal().string();
}

// The config without what a continuation may change.
Config identity(Config config) {
  config.name.clear();
  config.data = {};
  config.optim = {};
  config.parallel = {};
  config.eval = {};
  config.checkpoint = {};
  config.log = {};
  config.train.stop = {};
  config.train.micro_batch.reset();
  config.train.init_from.reset();
  config.train.upcycle = {};
  return config;
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
  put_balance_state(trainer.model(), state);
  describe_for_transformers(config, request);
  return request;
}

void restore_trainer(Trainer& trainer, const std::string& path) {
  const checkpoint::Reader reader(path);
  const checkpoint::TrainingState& state = reader.state();
  check_same_training(trainer.config(), parse_config(state.config, path + "/state.json", {}));
  if (reader.num_weights() != static_cast<int64_t>(trainer.table().entries().size())) {
    throw Error(ExitCode::checkpoint, str(path, " holds ", reader.num_weights(), " weights but the model has ",
                                          trainer.table().entries().size()));
  }
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
  trainer.resume(state.step, state.digest);
}

void check_same_training(const Config& ours, const Config& saved) {
  std::string list;
  for (const std::string& line : config_differences(identity(saved), identity(ours))) {
    list += (list.empty() ? "" : "; ") + line;
  }
  if (list.empty()) return;
  throw Error(ExitCode::checkpoint, str("the config differs from the checkpoint's in what may not change: ", list,
                                        "; use the run's own config, or another --run-dir"));
}

}  // namespace engine::train
