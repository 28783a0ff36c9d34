#include "tools/starter_config.h"

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "engine/config/canonical.h"
#include "engine/config/reader.h"
#include "engine/config/units.h"
#include "engine/core/error.h"
#include "engine/data/source_files.h"
#include "engine/data/text_stream.h"

namespace tools {
namespace {

using namespace engine;
using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;

struct Size {
  int64_t text_bytes;  // from here on
  int64_t width, layers, heads, experts, expert_width, seq_len, batch_tokens;
};
constexpr Size kSizes[] = {
    {0, 64, 2, 4, 4, 96, 64, 2048},
    {300000, 128, 4, 4, 8, 192, 128, 4096},
    {5000000, 192, 4, 6, 8, 256, 256, 8192},
};

Json starter(const std::string& name, const std::string& files, int64_t documents, int64_t bytes) {
  Size size = kSizes[0];
  for (const Size& s : kSizes) size = bytes >= s.text_bytes ? s : size;
  const bool many = documents >= 40;
  const int64_t steps = std::clamp<int64_t>(3 * bytes / size.batch_tokens, 100, 1000);  // about three times the text
  return {
      {"version", 1},
      {"name", name},
      {"seed", 1234},
      {"model",
       {{"hidden_size", size.width},
        {"num_hidden_layers", size.layers},
        {"num_attention_heads", size.heads},
        {"num_key_value_heads", 2},
        {"max_position_embeddings", size.seq_len},
        {"tie_word_embeddings", true},
        {"qk_norm", "head"},
        {"num_experts", size.experts},
        {"num_experts_per_tok", 2},
        {"moe_intermediate_size", size.expert_width},
        {"router", {{"aux_loss_coef", 0.01}, {"z_loss_coef", 0.001}}}}},
      {"data",
       {{"sources", Json::array({{{"name", name}, {"files", files}}})},
        {"held_out", {{"fraction", many ? 0.05 : 0.1}, {"split", many ? "groups" : "tail"}}}}},
      {"train",
       {{"seq_len", size.seq_len}, {"batch_tokens", size.batch_tokens}, {"granules", 4}, {"stop", {{"steps", steps}}}}},
      {"optim", {{"lr", 0.002}, {"min_lr", 0.0002}, {"warmup", steps / 20}, {"schedule", "cosine"}}},
      {"eval", {{"every", std::max<int64_t>(1, steps / 4)}}},
      {"checkpoint", {{"every", std::max<int64_t>(1, steps / 2)}}}};
}

// One key a line, each with what `config explain` says about it.
class CommentedWriter {
 public:
  CommentedWriter() {
    for (const KeyDescription& key : describe_keys()) help_[key.key] = key.help;
  }
  void write(const Json& object, const std::string& path, const std::string& indent) {
    text_ += "{\n";
    size_t left = object.size();
    for (const auto& [name, value] : object.items()) {
      const std::string key = path + name, comma = --left > 0 ? "," : "";
      const auto found = help_.find(key);
      const std::string comment = found == help_.end() ? "" : "  // " + found->second;
      const std::string start = indent + "  " + Json(name).dump() + ": ";
      if (value.is_object()) {
        text_ += "\n" + indent + "  // " + help_.at(key) + "\n" + start;
        write(value, key + ".", indent + "  ");
        text_ += comma + "\n";
      } else if (value.is_array()) {
        text_ += indent + "  // " + help_.at(key) + "\n" + start + "[";
        write(value[0], key + "[].", indent + "  ");
        text_ += "]" + comma + "\n";
      } else {
        const std::string line = start + value.dump() + comma;
        text_ += line + std::string(line.size() < 40 ? 40 - line.size() : 0, ' ') + comment + "\n";
      }
    }
    text_ += indent + "}";
  }
  const std::string& text() const { return text_; }

 private:
  std::map<std::string, std::string> help_;
  std::string text_;
};

}  // namespace

void write_starter_config(const std::string& text, const std::string& file) {
  std::error_code error;
  if (fs::exists(file, error))
    throw Error(ExitCode::usage, str(file, " is there already and is not overwritten; give another name with -o"));
  int64_t bytes = 0;
  const std::vector<std::string> found = data::find_files({text}, {}, "");
  for (const std::string& path : found) bytes += static_cast<int64_t>(fs::file_size(path, error));
  // the config names its files from where it stands
  const fs::path directory = fs::absolute(file).lexically_normal().parent_path();
  const fs::path files = fs::path(text).is_absolute() || data::is_standard_input(text)
                             ? fs::path(text)
                             : fs::absolute(text).lexically_normal().lexically_relative(directory);
  std::string name = fs::path(file).stem().string();
  CommentedWriter writer;
  writer.write(starter(name, files.generic_string(), static_cast<int64_t>(found.size()), bytes), "", "");
  const std::string config =
      str("// A starter config; `switchyard config explain` tells every key there is.\n", writer.text(), "\n");
  parse_config(config, file, {});
  std::ofstream out(file, std::ios::binary);
  out << config;
  if (!out.flush()) {
    throw Error(ExitCode::environment, str("cannot write ", file, "; give a place that can be written with -o"));
  }
  std::fprintf(stderr, "%zu files, %s of text; next: switchyard train %s\n", found.size(), print_bytes(bytes).c_str(),
               file.c_str());
  std::printf("%s\n", file.c_str());
}

}  // namespace tools
