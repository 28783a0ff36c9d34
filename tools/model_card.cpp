#include "tools/model_card.h"

#include <filesystem>
#include <fstream>
#include <sstream>

#include "engine/config/canonical.h"
#include "engine/config/json_reader.h"
#include "engine/config/parameter_count.h"
#include "engine/config/units.h"
#include "engine/core/error.h"
#include "engine/core/hash.h"

namespace tools {
namespace {

using namespace engine;
namespace fs = std::filesystem;

std::string sha256_of(const std::string& text) {
  return to_hex(sha256(text.data(), static_cast<int64_t>(text.size())));
}

// The manifest of the run that a checkpoint lies in, "" if it is not there.
std::string manifest_of(const std::string& checkpoint) {
  const fs::path run = fs::absolute(checkpoint).lexically_normal().parent_path().parent_path();
  std::ifstream file(run / "data.manifest.json", std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

std::string data_section(const train::LoadedModel& loaded) {
  const DataConfig& data = loaded.config().data;
  if (data.sources.empty()) return "";
  std::string text = "## Data\n\nText, read as bytes.\n\n| source | weight | files |\n|---|---|---|\n";
  for (const SourceConfig& source : data.sources) {
    std::string files;
    for (const std::string& pattern : source.files) files += (files.empty() ? "`" : ", `") + pattern + "`";
    text += str("| ", source.name, " | ", number_text(source.weight), " | ", files, " |\n");
  }
  text += str("\nHeld out: ", number_text(100 * data.held_out.fraction), " % by ", data.held_out.split, ".");
  const std::string manifest = manifest_of(loaded.path());
  if (!manifest.empty()) {
    text +=
        str(" `data.manifest.json` of the run lists every file with its SHA-256, package and licence; its own SHA-256"
            " is\n`",
            sha256_of(manifest), "`.");
  }
  return text + "\n\n";
}

std::string lineage_section(const train::LoadedModel& loaded) {
  const checkpoint::TrainingState& state = loaded.state();
  if (state.step == 0) return str("## Lineage\n\nConverted from `", loaded.path(), "`; not trained further.\n");
  std::string text = str("## Lineage\n\n| | |\n|---|---|\n| checkpoint | `", loaded.path(), "` |\n| steps | ",
                         state.step, " |\n| tokens | ", print_count(state.tokens), " |\n| run digest | `", state.digest,
                         "` |\n| hash of the weights | `", state.weights_hash, "` |\n| config, SHA-256 | `",
                         sha256_of(canonical_json(loaded.config())), "` |\n");
  if (loaded.config().train.init_from) text += str("| began from | `", *loaded.config().train.init_from, "` |\n");
  return text;
}

}  // namespace

std::string model_card(const std::string& name, train::LoadedModel& loaded, const huggingface::Family& family) {
  const ModelConfig& model = loaded.config().model;
  const ParameterCount count = count_parameters(model);
  std::string text = str("---\nlibrary_name: transformers\npipeline_tag: text-generation\n---\n\n# ", name, "\n\n",
                         family.architecture, ", ", print_count(count.total), " parameters");
  if (model.num_moe_layers() > 0) {
    text += str(", ", print_count(count.active), " of them active: ", model.num_experts, " experts, ",
                model.num_experts_per_tok, " for each token");
  }
  text += str(". Trained with Switchyard. Tokens are bytes (0 to 255)",
              model.vocabulary() > 256 ? ", 256 ends a document" : "", "; there is no tokenizer file.\n\n");
  return text + data_section(loaded) + lineage_section(loaded);
}

}  // namespace tools
