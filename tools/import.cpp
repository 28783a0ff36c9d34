// switchyard import HF_DIR -o CONFIG: a config that trains on from the weights of a transformers directory.
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>

#include "comm/group.h"
#include "engine/config/canonical.h"
#include "engine/config/parameter_count.h"
#include "engine/config/reader.h"
#include "engine/config/units.h"
#include "engine/core/error.h"
#include "engine/huggingface/model_config.h"
#include "engine/huggingface/weight_files.h"
#include "engine/model/model.h"
#include "tools/command.h"
#include "tools/command_line.h"

namespace tools {
namespace {

using namespace engine;
using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;

struct Options {
  std::string directory, output;
  std::vector<std::string> texts;
};

// A path as the config file names it: from where that stands.
std::string from_config(const std::string& path, const std::string& config) {
  if (fs::path(path).is_absolute()) return path;
  const fs::path place = fs::absolute(config).lexically_normal().parent_path();
  return fs::absolute(path).lexically_normal().lexically_relative(place).generic_string();
}

Json without_nulls(const Json& object) {
  Json result = Json::object();
  for (const auto& [key, value] : object.items()) {
    if (!value.is_null()) result[key] = value.is_object() ? without_nulls(value) : value;
  }
  return result;
}

std::string config_text(const Options& options, const ModelConfig& model) {
  Config full;
  full.model = model;
  const int64_t seq_len = std::min<int64_t>(256, model.max_position_embeddings);
  Json json = {{"version", 1},
               {"name", fs::path(options.output).stem().string()},
               {"model", without_nulls(Json::parse(canonical_json(full))["model"])}};
  if (!options.texts.empty()) {
    Json files = Json::array();
    for (const std::string& text : options.texts) files.push_back(from_config(text, options.output));
    json["data"]["sources"] = Json::array({{{"name", "text"}, {"files", files}}});
  }
  json["train"] = {{"seq_len", seq_len},
                   {"batch_tokens", 16 * seq_len},
                   {"granules", 4},
                   {"stop", {{"steps", 1000}}},
                   {"init_from", from_config(options.directory, options.output)}};
  json["optim"] = {{"lr", 1e-4}, {"min_lr", 1e-5}, {"warmup", 20}};
  return json.dump(2) + "\n";
}

int run(const Options& options) {
  std::error_code error;
  if (fs::exists(options.output, error)) {
    throw Error(ExitCode::usage, str(options.output, " is there already and is not overwritten; give another -o"));
  }
  Config config;
  config.model = huggingface::read_model_config(options.directory);
  nn::ParameterStore store;  // without memory: names and shapes are enough
  const std::unique_ptr<comm::Group> self = comm::make_self_group();
  const model::Model model(config, store, *self);
  const huggingface::Family family = huggingface::family_of(config.model);
  huggingface::WeightFiles(options.directory).check(family, store);
  const std::string text = config_text(options, config.model);
  parse_config(text, options.output, {});
  std::ofstream out(options.output, std::ios::binary);
  out << text;
  if (!out.flush()) throw Error(ExitCode::environment, str("cannot write ", options.output, "; give another -o"));
  const ParameterCount count = count_parameters(config.model);
  std::fprintf(stderr, "%s, %s parameters, %s active; every tensor matched; next: switchyard train %s%s\n",
               family.architecture.c_str(), print_count(count.total).c_str(), print_count(count.active).c_str(),
               options.output.c_str(), options.texts.empty() ? ", with data.sources in it" : "");
  std::printf("%s\n", options.output.c_str());
  return 0;
}

}  // namespace

void add_import(CommandLine& program) {
  auto options = std::make_shared<Options>();
  CommandLine command = program.add_subcommand("import", "a config that trains on from a Hugging Face model");
  command.add_option("directory", options->directory, "directory with config.json and safetensors").required();
  command.add_option("-o,--output", options->output, "config file to write").required();
  command.add_option("--data", options->texts, "text to train on: files, directories or globs; may be repeated");
  command.footer("Example: switchyard import OLMoE-1B-7B -o olmoe.json --data text/");
  command.runs([options] { return run(*options); });
}

}  // namespace tools
