// switchyard config check|show|schema|explain|init: about config files.
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "engine/config/canonical.h"
#include "engine/config/origins.h"
#include "engine/config/parameter_count.h"
#include "engine/config/problems.h"
#include "engine/config/reader.h"
#include "engine/config/units.h"
#include "engine/core/error.h"
#include "tools/command.h"
#include "tools/command_line.h"
#include "tools/starter_config.h"

namespace tools {
namespace {

using namespace engine;

struct Options {
  std::string file, key, text, output = "switchyard.json";
  std::vector<std::string> sets;
  bool json = false, origins = false;
};

int check(const Options& options) {
  const Config config = load_config(options.file, options.sets);
  const ParameterCount count = count_parameters(config.model);
  const double flops = 3 * forward_flops_per_token(config.model, config.train.seq_len);
  if (options.json) {
    std::printf("%s\n", nlohmann::ordered_json{{"file", options.file},
                                               {"ok", true},
                                               {"parameters", count.total},
                                               {"active_parameters", count.active},
                                               {"flops_per_token", flops}}
                            .dump()
                            .c_str());
  } else {
    std::printf("%s: ok, %s parameters, %s active, %s FLOPs per token\n", options.file.c_str(),
                print_count(count.total).c_str(), print_count(count.active).c_str(),
                print_count(static_cast<int64_t>(flops)).c_str());
  }
  return 0;
}

int show(const Options& options) {
  const Config config = load_config(options.file, options.sets);
  std::printf("%s", (options.origins ? resolved_json(config) : canonical_json(config)).c_str());
  return 0;
}

int schema(const Options&) {
  std::printf("%s", schema_json().c_str());
  return 0;
}

int explain(const Options& options) {
  std::vector<std::string> names;
  bool found = false;
  for (const KeyDescription& key : describe_keys()) {
    names.push_back(key.key);
    if (key.key != options.key && !(key.key.starts_with(options.key + ".") || options.key.empty())) continue;
    found = true;
    std::printf("%s  (%s%s%s)%s%s\n    %s\n", key.key.c_str(), key.type.c_str(), key.range.empty() ? "" : ", ",
                key.range.c_str(), key.fallback.empty() ? "" : "  default ", key.fallback.c_str(), key.help.c_str());
  }
  if (found) return 0;
  const std::string near = nearest(options.key, names);
  throw Error(ExitCode::usage,
              str("there is no key \"", options.key, "\"", near.empty() ? "" : "; did you mean \"" + near + "\"?"));
}

int init(const Options& options) {
  write_starter_config(options.text, options.output);
  return 0;
}

}  // namespace

void add_config(CommandLine& program) {
  auto options = std::make_shared<Options>();
  CommandLine config = program.add_subcommand("config", "check and explain config files");
  config.require_subcommand();
  const auto add = [&](const char* name, const char* help, int (*action)(const Options&)) {
    CommandLine command = config.add_subcommand(name, help);
    command.runs([options, action] { return action(*options); });
    return command;
  };
  const auto with_file = [&](CommandLine command) {
    command.add_option("file", options->file, "config file").required();
    command.add_option("--set", options->sets, "KEY=VALUE: another value for a key; may be repeated");
    command.footer(str("Example: switchyard config ", command.name(), " configs/tiny.json --set optim.lr=1e-3"));
    return command;
  };
  with_file(add("check", "say whether a config is valid; exit 0 or 2", check))
      .add_flag("--json", options->json, "one JSON object on stdout");
  with_file(add("show", "every key with its value", show))
      .add_flag("--origins", options->origins, "and where it comes from: a place in the file, --set or the default");
  add("schema", "the JSON schema of config files", schema)
      .footer("Example: switchyard config schema > configs/schema.json");
  CommandLine of_explain = add("explain", "what a key means; without one, all keys", explain);
  of_explain.add_option("key", options->key, "a key, or the beginning of some");
  of_explain.footer("Example: switchyard config explain model.router");
  CommandLine of_init = add("init", "write a config with comments, fit for a text of yours", init);
  of_init.add_option("text", options->text, "a file, a directory or a glob").required();
  of_init.add_option("-o,--output", options->output, "config file to write (default: switchyard.json)");
  of_init.footer("Example: switchyard config init 'books/**/*.txt' -o books.json");
}

}  // namespace tools
