// switchyard generate RUN|CHECKPOINT|HF_DIR -p TEXT: text from a trained model.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "engine/core/thread_pool.h"
#include "engine/data/tokenizer.h"
#include "engine/train/generate.h"
#include "engine/train/loaded_model.h"
#include "tools/command.h"

namespace tools {
namespace {

struct Options {
  std::string model, prompt;
  engine::train::GenerateOptions generate;
  int threads = 0;
  bool json = false;
};

int run(const Options& options) {
  engine::ThreadPool pool(options.threads > 0 ? options.threads : engine::available_processors());
  pool.make_current();
  engine::train::LoadedModel loaded(options.model);
  const engine::ModelConfig& config = loaded.config().model;
  engine::train::note_byte_reading(config);
  loaded.model().plan(config.max_position_embeddings);
  const engine::train::Generated result =
      engine::train::generate(loaded.model(), config, engine::data::encode(options.prompt), options.generate);
  const std::string text = engine::data::decode(result.tokens);
  const double speed =
      result.decode_seconds > 0 ? static_cast<double>(result.tokens.size()) / result.decode_seconds : 0;
  if (options.json) {
    const nlohmann::ordered_json line = {{"tokens", result.tokens},
                                         {"text", text},
                                         {"tokens_per_second", speed},
                                         {"prefill_seconds", result.prefill_seconds}};
    std::printf("%s\n", line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
  } else {
    std::printf("%s%s\n", options.prompt.c_str(), text.c_str());
    std::fprintf(stderr, "%zu tokens, %.0f tokens/s\n", result.tokens.size(), speed);
  }
  return 0;
}

}  // namespace

void add_generate(CLI::App& app, Command& chosen) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("generate", "continue a text with a trained model");
  command->add_option("model", options->model, "run directory, checkpoint or Hugging Face directory")->required();
  command->add_option("-p,--prompt", options->prompt, "text to continue")->required();
  command->add_option("--max-tokens", options->generate.max_tokens, "new tokens at most")->check(CLI::PositiveNumber);
  command->add_option("--temperature", options->generate.temperature, "0: always the likeliest token")
      ->check(CLI::Range(0.0, 1000.0));
  command->add_option("--seed", options->generate.seed, "another seed, another text");
  command->add_option("--threads", options->threads, "threads (default: all processors)")->check(CLI::PositiveNumber);
  command->add_flag("--json", options->json, "one JSON object on stdout");
  command->footer("Example: switchyard generate runs/quickstart -p \"def main():\" --temperature 0.7");
  command->callback([options, &chosen] { chosen = [options] { return run(*options); }; });
}

}  // namespace tools
