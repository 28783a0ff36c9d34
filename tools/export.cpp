// switchyard export RUN|CHECKPOINT|HF_DIR --to hf DIR: a directory that transformers opens.
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>

#include "engine/core/error.h"
#include "engine/core/thread_pool.h"
#include "engine/data/tokenizer.h"
#include "engine/huggingface/export.h"
#include "engine/train/loaded_model.h"
#include "tools/command.h"
#include "tools/command_line.h"
#include "tools/model_card.h"

namespace tools {
namespace {

using namespace engine;

struct Options {
  std::string model, directory, format = "hf", dtype = "f32";
};

int run(const Options& options) {
  ThreadPool pool(available_processors());
  pool.make_current();
  train::LoadedModel loaded(options.model);
  const ModelConfig& model = loaded.config().model;
  const huggingface::Family family = huggingface::family_of(model);
  if (!family) {
    std::string list;
    for (const std::string& objection : family.objections) list += (list.empty() ? "" : "; ") + objection;
    throw Error(ExitCode::usage, str("no Hugging Face family computes this model, because of ", list,
                                     "; `switchyard generate` and `eval` run it as it is"));
  }
  std::optional<int64_t> end_token;
  if (model.vocabulary() > data::kEndOfDocument) end_token = data::kEndOfDocument;
  const std::string name = std::filesystem::path(options.directory).lexically_normal().filename().string();
  huggingface::write_directory(options.directory, {.family = family,
                                                   .model = &model,
                                                   .store = &loaded.store(),
                                                   .end_token = end_token,
                                                   .card = model_card(name.empty() ? "model" : name, loaded, family),
                                                   .dtype = options.dtype == "bf16" ? DType::bf16 : DType::f32});
  std::fprintf(stderr, "%s as %s\n", loaded.path().c_str(), family.architecture.c_str());
  std::printf("%s\n", options.directory.c_str());
  return 0;
}

}  // namespace

void add_export(CommandLine& program) {
  auto options = std::make_shared<Options>();
  CommandLine command = program.add_subcommand("export", "write a model as a directory that transformers opens");
  command.add_option("model", options->model, "run directory, checkpoint or Hugging Face directory").required();
  command.add_option("directory", options->directory, "new directory").required();
  command.add_option("--to", options->format, "format: hf").one_of({"hf"});
  command.add_option("--dtype", options->dtype, "of the weights: f32 (default) or bf16, rounded to nearest")
      .one_of({"f32", "bf16"});
  command.footer("Example: switchyard export runs/mine --to hf mine-hf");
  command.runs([options] { return run(*options); });
}

}  // namespace tools
