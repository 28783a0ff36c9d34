// switchyard ckpt info|verify: looks into a checkpoint.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "engine/checkpoint/checkpoint.h"
#include "engine/config/units.h"
#include "engine/core/error.h"
#include "engine/train/loaded_model.h"
#include "tools/command.h"

namespace tools {
namespace {

using namespace engine;

struct Options {
  std::string path;
  bool json = false;
};

int info(const Options& options) {
  const std::string path = train::resolve_checkpoint(options.path);
  const checkpoint::Reader reader(path);
  const checkpoint::TrainingState& state = reader.state();
  int64_t bytes = 0;
  for (const auto& file : reader.files()) bytes += file.bytes;
  if (options.json) {
    const nlohmann::ordered_json line = {{"path", path},
                                         {"step", state.step},
                                         {"tokens", state.tokens},
                                         {"digest", state.digest},
                                         {"weights_hash", state.weights_hash},
                                         {"weights", reader.num_weights()},
                                         {"bytes", bytes}};
    std::printf("%s\n", line.dump().c_str());
    return 0;
  }
  std::printf("%s\nstep     %lld\ntokens   %lld\ndigest   %s\nweights  %lld tensors, hash %s\n\n", path.c_str(),
              static_cast<long long>(state.step), static_cast<long long>(state.tokens), state.digest.c_str(),
              static_cast<long long>(reader.num_weights()), state.weights_hash.c_str());
  for (const auto& file : reader.files()) std::printf("%10s  %s\n", print_bytes(file.bytes).c_str(), file.name.c_str());
  return 0;
}

int verify(const Options& options) {
  const std::vector<std::string> problems = checkpoint::verify_checkpoint(options.path);
  if (options.json) {
    std::printf("%s\n",
                nlohmann::ordered_json{{"path", options.path}, {"whole", problems.empty()}, {"problems", problems}}
                    .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)
                    .c_str());
  } else {
    for (const std::string& problem : problems) std::fprintf(stderr, "%s\n", problem.c_str());
    if (problems.empty()) std::printf("%s is whole\n", options.path.c_str());
  }
  return problems.empty() ? 0 : static_cast<int>(ExitCode::checkpoint);
}

}  // namespace

void add_ckpt(CLI::App& app, Command& chosen) {
  auto options = std::make_shared<Options>();
  CLI::App* ckpt = app.add_subcommand("ckpt", "look into checkpoints");
  ckpt->require_subcommand(1);
  const auto add = [&](const char* name, const char* help, int (*action)(const Options&)) {
    CLI::App* command = ckpt->add_subcommand(name, help);
    command->add_option("checkpoint", options->path, "a checkpoint")->required();
    command->add_flag("--json", options->json, "one JSON object on stdout");
    command->callback([options, action, &chosen] { chosen = [options, action] { return action(*options); }; });
  };
  add("info", "step, digest and files", info);
  add("verify", "check every file against the manifest; exit 0 or 6", verify);
}

}  // namespace tools
