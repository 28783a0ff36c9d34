#include "engine/data/manifest.h"

#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <unordered_map>

namespace engine::data {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

namespace {

// Packages by file, from dpkg's own lists; empty on systems without dpkg.
class PackageIndex {
 public:
  PackageIndex() {
    std::error_code error;
    for (const fs::directory_entry& entry : fs::directory_iterator("/var/lib/dpkg/info", error)) {
      if (entry.path().extension() != ".list") continue;
      std::string package = entry.path().stem().string(), line;
      package = package.substr(0, package.find(':'));
      std::ifstream list(entry.path());
      while (std::getline(list, line)) package_of_[line] = package;
    }
    std::ifstream status("/var/lib/dpkg/status");
    std::string line, package;
    while (std::getline(status, line)) {
      if (line.starts_with("Package: ")) package = line.substr(9);
      if (line.starts_with("Version: ")) version_of_[package] = line.substr(9);
    }
  }
  std::string package(const std::string& path) const {
    const auto found = package_of_.find(path);
    return found == package_of_.end() ? "" : found->second;
  }
  std::string version(const std::string& package) const {
    const auto found = version_of_.find(package);
    return found == version_of_.end() ? "" : found->second;
  }

 private:
  std::unordered_map<std::string, std::string> package_of_, version_of_;
};

}  // namespace

struct ManifestWriter::State {
  Json root;
  PackageIndex packages;
  int64_t ngram;
};

ManifestWriter::ManifestWriter(const DataConfig& config, int64_t vocab_size) : state_(std::make_unique<State>()) {
  Json filters = {{"dedup", config.filters.dedup}};
  if (config.filters.max_digit_fraction) filters["max_digit_fraction"] = *config.filters.max_digit_fraction;
  if (config.filters.min_bytes) filters["min_bytes"] = config.filters.min_bytes->value;
  if (config.filters.control_characters != "keep") filters["control_characters"] = config.filters.control_characters;
  if (config.filters.max_line_share) filters["max_line_share"] = *config.filters.max_line_share;
  if (config.filters.min_compression) filters["min_compression"] = *config.filters.min_compression;
  if (config.filters.max_compression) filters["max_compression"] = *config.filters.max_compression;
  if (config.filters.unlike_source != "keep") filters["unlike_source"] = config.filters.unlike_source;
  if (!config.filters.containing.empty()) filters["containing"] = config.filters.containing;
  state_->ngram = config.held_out.ngram;
  const std::optional<double> max_overlap = config.held_out.max_overlap;
  state_->root = {{"version", 1},
                  {"tokenizer", "bytes"},
                  {"end_of_document_token", vocab_size > 256},
                  {"filters", filters},
                  {"on_bad_record", config.on_bad_record},
                  {"held_out",
                   {{"fraction", config.held_out.fraction},
                    {"split", config.held_out.split},
                    {"ngram", config.held_out.ngram},
                    {"max_overlap", max_overlap ? Json(*max_overlap) : Json()}}},
                  {"sources", Json::object()},
                  {"packages", Json::object()},
                  {"files", Json::array()}};
}

ManifestWriter::~ManifestWriter() = default;

void ManifestWriter::add(const SourceDocuments& source, const std::string& set,
                         const std::vector<const Document*>& documents) {
  for (size_t first = 0; first < documents.size();) {
    const std::string& path = documents[first]->path;
    int64_t used = 0;
    size_t end = first;
    for (; end < documents.size() && documents[end]->path == path; ++end) used += documents[end]->bytes();
    const FileFacts& facts = source.files.at(path);
    Json file = {{"path", path},         {"source", source.name}, {"set", set},
                 {"bytes", facts.bytes}, {"bytes_used", used},    {"sha256", facts.sha256}};
    if (documents[first]->line > 0) file["documents"] = end - first;
    const std::string package = state_->packages.package(path);
    if (!package.empty()) {
      file["package"] = package;
      state_->root["packages"][package] = {{"version", state_->packages.version(package)},
                                           {"licence", "/usr/share/doc/" + package + "/copyright"}};
    }
    state_->root["files"].push_back(file);
    first = end;
  }
}

void ManifestWriter::add_left_out(const SourceDocuments& source) {
  Json& json = state_->root["sources"][source.name];
  json["left_out"] = source.left_out.empty() ? Json::object() : Json(source.left_out);
  if (!source.left_out_names.empty()) json["left_out_names"] = source.left_out_names;
}

void ManifestWriter::add_overlap(const std::string& source, double overlap) {
  state_->root["sources"][source]["held_out_" + std::to_string(state_->ngram) + "gram_overlap"] = overlap;
}

// A path need not be UTF-8; what is not is shown as such.
std::string ManifestWriter::text() const {
  return state_->root.dump(1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

}  // namespace engine::data
