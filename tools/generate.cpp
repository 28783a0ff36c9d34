// switchyard generate RUN|CHECKPOINT|HF_DIR -p TEXT: text from a trained model.
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>

#include "engine/config/json_reader.h"
#include "engine/core/error.h"
#include "engine/core/thread_pool.h"
#include "engine/data/tokenizer.h"
#include "engine/train/generate.h"
#include "engine/train/loaded_model.h"
#include "tools/command.h"
#include "tools/command_line.h"
#include "tools/device_option.h"

namespace tools {
namespace {

using engine::Error;
using engine::ExitCode;
using engine::str;

struct Options {
  std::string model, prompt, prompts, device = "cpu";
  engine::train::GenerateOptions generate;
  int threads = 0;
  bool json = false;
};

// One prompt a line; in a .jsonl file the text of each line's object.
std::vector<std::string> read_prompts(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    throw Error(ExitCode::usage, str("prompts ", path, " cannot be read (", std::strerror(errno),
                                     "); give a file with one prompt a line, or a .jsonl file with \"text\""));
  }
  std::vector<std::string> prompts;
  int64_t number = 0;
  for (std::string line; std::getline(file, line);) {
    ++number;
    if (path.ends_with(".jsonl")) {
      const engine::JsonValue object = engine::read_json(line, {}, ExitCode::usage);
      const engine::JsonValue* text = object.find("text");
      if (text == nullptr || text->type != engine::JsonValue::Type::string) {
        throw Error(ExitCode::usage, str(path, ":", number, ": a prompt is an object with a \"text\""));
      }
      line = text->string;
    }
    if (line.empty()) throw Error(ExitCode::usage, str(path, ":", number, ": the prompt is empty; take the line away"));
    prompts.push_back(line);
  }
  if (prompts.empty()) throw Error(ExitCode::usage, str(path, " has no prompts; write one a line"));
  return prompts;
}

std::string as_text(const nlohmann::ordered_json& json) {
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

int run(const Options& options) {
  const bool many = !options.prompts.empty();
  const std::vector<std::string> prompts =
      many ? read_prompts(options.prompts) : std::vector<std::string>{options.prompt};
  std::vector<std::vector<int32_t>> encoded;
  for (const std::string& prompt : prompts) encoded.push_back(engine::data::encode(prompt));
  engine::ThreadPool pool(options.threads > 0 ? options.threads : engine::available_processors());
  pool.make_current();
  engine::train::LoadedModel loaded(options.model, chosen_device(options.device));
  const engine::ModelConfig& config = loaded.config().model;
  engine::train::note_byte_reading(config);
  const engine::train::Generated result = engine::train::generate(loaded.model(), config, encoded, options.generate);
  const double speed = result.decode_seconds > 0 ? static_cast<double>(result.num_tokens()) / result.decode_seconds : 0;
  nlohmann::ordered_json texts = nlohmann::ordered_json::array();
  for (size_t i = 0; i < prompts.size(); ++i) {
    const std::string text = engine::data::decode(result.tokens[i]);
    if (options.json) {
      texts.push_back({{"tokens", result.tokens[i]}, {"text", text}});
      if (many) texts.back()["prompt"] = prompts[i];
    } else {
      std::printf("%s%s%s\n", many && i > 0 ? "\n" : "", prompts[i].c_str(), text.c_str());
    }
  }
  if (options.json) {
    nlohmann::ordered_json line = many ? nlohmann::ordered_json{{"prompts", texts}} : texts[0];
    line["tokens_per_second"] = speed;
    line["prefill_seconds"] = result.prefill_seconds;
    std::printf("%s\n", as_text(line).c_str());
  } else {
    std::fprintf(stderr, "%lld tokens, %.0f tokens/s\n", static_cast<long long>(result.num_tokens()), speed);
  }
  return 0;
}

}  // namespace

void add_generate(CommandLine& program) {
  auto options = std::make_shared<Options>();
  CommandLine command = program.add_subcommand("generate", "continue a text with a trained model");
  command.add_option("model", options->model, "run directory, checkpoint or Hugging Face directory").required();
  CommandLine input = command.add_choice("prompt");
  input.add_option("-p,--prompt", options->prompt, "text to continue");
  input.add_option("--prompts", options->prompts, "file of texts to continue, one a line, or .jsonl");
  command.add_option("--max-tokens", options->generate.max_tokens, "new tokens at most").positive();
  command.add_option("--temperature", options->generate.temperature, "0: always the likeliest token")
      .within(0.0, 1000.0);
  command.add_option("--seed", options->generate.seed, "another seed, another text");
  command.add_option("--threads", options->threads, "threads (default: all processors)").positive();
  add_device_option(command, options->device);
  command.add_flag("--json", options->json, "one JSON object on stdout");
  command.footer("Example: switchyard generate runs/quickstart -p \"def main():\" --temperature 0.7");
  command.runs([options] { return run(*options); });
}

}  // namespace tools
