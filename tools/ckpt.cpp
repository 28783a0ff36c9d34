// switchyard ckpt ls|info|verify|diff|prune|tag: looks into checkpoints and keeps house among them.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "engine/checkpoint/checkpoint.h"
#include "engine/checkpoint/tags.h"
#include "engine/config/config_difference.h"
#include "engine/config/reader.h"
#include "engine/config/units.h"
#include "engine/core/error.h"
#include "engine/core/hash.h"
#include "engine/core/thread_pool.h"
#include "engine/train/loaded_model.h"
#include "engine/train/run_directory.h"
#include "tools/command.h"
#include "tools/command_line.h"

namespace tools {
namespace {

using namespace engine;
using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;

struct Options {
  std::string path, other, tag;
  int64_t keep = 2;
  bool json = false, dry_run = false, remove = false;
};

void print_json(const Json& json) {
  std::printf("%s\n", json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
}

std::string checkpoints_of(const std::string& run) {
  std::error_code error;
  const std::string directory = run + "/checkpoints";
  if (fs::is_directory(directory, error)) return directory;
  throw Error(ExitCode::checkpoint, str(run, " has no checkpoints; give a run directory"));
}

int64_t bytes_of(const checkpoint::Reader& reader) {
  int64_t bytes = 0;
  for (const auto& [name, file] : reader.manifest().files) bytes += file.bytes;
  return bytes;
}

// Where a checkpoint came from: what its run went on from, the oldest first.
Json lineage_of(const checkpoint::TrainingState& state) {
  Json ancestors = Json::array();
  for (const checkpoint::Ancestor& a : state.ancestors) {
    ancestors.push_back({{"run", a.run},
                         {"step", a.step},
                         {"digest", a.digest},
                         {"config_sha256", a.config_hash},
                         {"text_hash", a.text_hash},
                         {"changes", a.changes}});
  }
  return ancestors;
}

int info(const Options& options) {
  const std::string path = train::resolve_checkpoint(options.path);
  const checkpoint::Reader reader(path);
  const checkpoint::TrainingState& state = reader.state();
  if (options.json) {
    print_json({{"path", path},
                {"step", state.step},
                {"tokens", state.tokens},
                {"digest", state.digest},
                {"weights_hash", state.weights_hash},
                {"weights", reader.manifest().weights.size()},
                {"run", state.run},
                {"ancestors", lineage_of(state)},
                {"bytes", bytes_of(reader)}});
    return 0;
  }
  std::printf("%s\nstep     %lld\ntokens   %lld\ndigest   %s\nweights  %zu tensors, hash %s\n\n", path.c_str(),
              static_cast<long long>(state.step), static_cast<long long>(state.tokens), state.digest.c_str(),
              reader.manifest().weights.size(), state.weights_hash.c_str());
  for (const auto& [name, file] : reader.manifest().files)
    std::printf("%10s  %s\n", print_bytes(file.bytes).c_str(), name.c_str());
  return 0;
}

int verify(const Options& options) {
  const std::vector<std::string> problems = checkpoint::verify_checkpoint(options.path);
  if (options.json) {
    print_json({{"path", options.path}, {"whole", problems.empty()}, {"problems", problems}});
  } else {
    for (const std::string& problem : problems) std::fprintf(stderr, "%s\n", problem.c_str());
    if (problems.empty()) std::printf("%s is whole\n", options.path.c_str());
  }
  return problems.empty() ? 0 : static_cast<int>(ExitCode::checkpoint);
}

// One checkpoint as `ls` shows it; of a damaged one the first problem.
Json listed(const std::string& directory, const std::string& name, const std::map<std::string, std::string>& tags) {
  Json row = {{"name", name}, {"tags", Json::array()}};
  for (const auto& [tag, step] : tags) {
    if (step == name) row["tags"].push_back(tag);
  }
  try {
    const checkpoint::Reader reader(directory + "/" + name);
    const checkpoint::TrainingState& state = reader.state();
    row["step"] = state.step;
    row["tokens"] = state.tokens;
    row["bytes"] = bytes_of(reader);
    row["digest"] = state.digest;
    row["run"] = state.run;
    row["config_sha256"] = state.config_hash;
    row["text_hash"] = state.text_hash;
    row["ancestors"] = lineage_of(state);
    const Config config = parse_config(state.config, name, {});
    row["began_from"] = config.train.init_from ? Json(*config.train.init_from) : Json(nullptr);
  } catch (const Error& error) {
    row["problem"] = error.what();
  }
  return row;
}

// What the checkpoints of a run came from, each ancestor once.
void print_lineage(const Json& rows) {
  std::vector<std::string> told;
  for (const Json& row : rows) {
    if (!row.contains("ancestors")) continue;
    for (const Json& a : row["ancestors"]) {
      std::string text = str("from step ", a["step"].get<int64_t>(), " of run ", a["run"].get<std::string>(),
                             ", config ", a["config_sha256"].get<std::string>().substr(0, 8), ", text ",
                             a["text_hash"].get<std::string>().substr(0, 8));
      for (const Json& change : a["changes"]) text += "\n    " + change.get<std::string>();
      if (std::find(told.begin(), told.end(), text) == told.end()) told.push_back(text);
    }
  }
  for (const std::string& text : told) std::printf("%s%s\n", &text == &told.front() ? "\n" : "", text.c_str());
}

int ls(const Options& options) {
  const std::string directory = checkpoints_of(options.path);
  const std::map<std::string, std::string> tags = checkpoint::read_tags(directory);
  Json rows = Json::array();
  for (const std::string& name : checkpoint::list_checkpoints(directory)) rows.push_back(listed(directory, name, tags));
  if (options.json) return print_json({{"run", options.path}, {"checkpoints", rows}}), 0;
  std::printf("%-14s %9s %9s %10s  %-16s %-8s %-8s  %s\n", "checkpoint", "step", "tokens", "size", "digest", "config",
              "text", "tags");
  for (const Json& row : rows) {
    const std::string name = row["name"];
    std::string names;
    for (const Json& tag : row["tags"]) names += (names.empty() ? "" : ", ") + tag.get<std::string>();
    if (row.contains("problem")) {
      std::printf("%-14s damaged: %s\n", name.c_str(), row["problem"].get<std::string>().c_str());
      continue;
    }
    std::printf("%-14s %9lld %9s %10s  %-16.16s %-8.8s %-8.8s  %s\n", name.c_str(), row["step"].get<long long>(),
                print_count(row["tokens"]).c_str(), print_bytes(row["bytes"]).c_str(),
                row["digest"].get<std::string>().c_str(), row["config_sha256"].get<std::string>().c_str(),
                row["text_hash"].get<std::string>().c_str(), names.c_str());
  }
  print_lineage(rows);
  return 0;
}

// |a - b| / |b| of one weight.
double relative_change(const nn::Parameter& a, const nn::Parameter& b) {
  double difference = 0, norm = 0;
  for (int64_t i = 0; i < a.elements; ++i) {
    const double x = static_cast<double>(a.weight.f32()[i]), y = static_cast<double>(b.weight.f32()[i]);
    difference += (x - y) * (x - y), norm += y * y;
  }
  return norm > 0 ? std::sqrt(difference / norm) : std::sqrt(difference);
}

int diff(const Options& options) {
  ThreadPool pool(available_processors());
  pool.make_current();
  train::LoadedModel a(options.path), b(options.other);
  const std::vector<std::string> config = config_differences(a.config(), b.config());
  std::vector<std::pair<double, std::string>> changed;
  Json only = Json::array();
  int64_t equal = 0;
  for (const nn::Parameter& p : a.store().all()) {
    const nn::Parameter* q = b.store().find(p.spec.name);
    if (q == nullptr || q->spec.dims != p.spec.dims) {
      only.push_back(p.spec.name);
    } else if (const double change = relative_change(p, *q); change > 0) {
      changed.emplace_back(change, p.spec.name);
    } else {
      ++equal;
    }
  }
  std::sort(changed.rbegin(), changed.rend());
  if (options.json) {
    Json weights = Json::object();
    for (const auto& [change, name] : changed) weights[name] = change;
    print_json({{"a", {{"path", a.path()}, {"step", a.state().step}}},
                {"b", {{"path", b.path()}, {"step", b.state().step}}},
                {"config", config},
                {"equal_weights", equal},
                {"changed_weights", weights},
                {"of_another_shape", only}});
    return 0;
  }
  std::printf("A %s, step %lld\nB %s, step %lld\n\n", a.path().c_str(), static_cast<long long>(a.state().step),
              b.path().c_str(), static_cast<long long>(b.state().step));
  if (config.empty()) std::printf("the configs are equal\n");
  for (const std::string& line : config) std::printf("config  %s\n", line.c_str());
  std::printf("\n%lld weights are equal, %zu differ, %zu of A are not in B or have another shape there\n",
              static_cast<long long>(equal), changed.size(), only.size());
  constexpr size_t kMost = 12;
  for (size_t i = 0; i < std::min(kMost, changed.size()); ++i) {
    std::printf("%s%10.3e  %s\n", i == 0 ? "\n  |A-B|/|B|\n" : "", changed[i].first, changed[i].second.c_str());
  }
  if (changed.size() > kMost) std::printf("... and %zu more; --json has all\n", changed.size() - kMost);
  return 0;
}

int prune(const Options& options) {
  const std::string directory = checkpoints_of(options.path);
  const train::RunDirectory lock(options.path);  // not while a run saves into it
  const std::vector<std::string> names = checkpoint::expendable_checkpoints(directory, options.keep);
  if (!options.dry_run) checkpoint::remove_checkpoints(directory, names);
  if (options.json) return print_json({{"removed", names}, {"dry_run", options.dry_run}}), 0;
  for (const std::string& name : names)
    std::printf("%s %s\n", options.dry_run ? "would remove" : "removed", name.c_str());
  if (names.empty()) std::printf("nothing to remove\n");
  return 0;
}

int tag(const Options& options) {
  if (options.remove) {
    checkpoint::remove_tag(checkpoints_of(options.path), options.tag);
    std::printf("%s is no tag any more\n", options.tag.c_str());
    return 0;
  }
  const fs::path path = fs::path(train::resolve_checkpoint(options.path)).lexically_normal();
  const fs::path step = path.has_filename() ? path : path.parent_path();
  if (!step.filename().string().starts_with("step-")) {
    throw Error(ExitCode::usage, str(path.string(), " does not lie in a run; only checkpoints of a run have tags"));
  }
  checkpoint::add_tag(step.parent_path().string(), options.tag, step.filename().string());
  std::printf("%s is %s\n", options.tag.c_str(), step.string().c_str());
  return 0;
}

}  // namespace

void add_ckpt(CommandLine& program) {
  auto options = std::make_shared<Options>();
  CommandLine ckpt = program.add_subcommand("ckpt", "look into checkpoints, name them, remove them");
  ckpt.require_subcommand();
  const auto add = [&](const char* name, const char* help, const char* argument, const char* meaning,
                       const char* example, int (*action)(const Options&)) {
    CommandLine command = ckpt.add_subcommand(name, help);
    command.footer(str("Example: switchyard ckpt ", name, " ", example));
    command.add_option(argument, options->path, meaning).required();
    command.add_flag("--json", options->json, "one JSON object on stdout");
    command.runs([options, action] { return action(*options); });
    return command;
  };
  const char* const which = "run directory, RUN@TAG or checkpoint";
  add("ls", "the checkpoints of a run, newest first", "run", "run directory", "runs/mine", ls);
  add("info", "step, digest and files", "checkpoint", which, "runs/mine", info);
  add("verify", "check every file against the manifest; exit 0 or 6", "checkpoint", "a checkpoint",
      "runs/mine/checkpoints/step-00001000", verify);
  CommandLine command =
      add("diff", "config keys and weights in which two models differ", "a", which, "runs/mine@best runs/mine", diff);
  command.add_option("b", options->other, which).required();
  command = add("prune", "remove all but the newest checkpoints; those with a tag stay", "run", "run directory",
                "runs/mine --keep 3 --dry-run", prune);
  command.add_option("--keep", options->keep, "how many of the newest stay (default: 2)").positive();
  command.add_flag("--dry-run", options->dry_run, "only say which");
  command = add("tag", "name a checkpoint: retention keeps it, and RUN@TAG means it", "checkpoint",
                "run directory (its newest) or checkpoint; with --remove a run directory", "runs/mine best", tag);
  command.add_option("tag", options->tag, "letters, digits, \".\", \"_\", \"-\"").required();
  command.add_flag("--remove", options->remove, "take the tag away; the checkpoint stays for now");
  ckpt.footer("Example: switchyard ckpt tag runs/mine best && switchyard eval runs/mine@best");
}

}  // namespace tools
