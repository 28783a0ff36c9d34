// data.manifest.json: every file a run was trained and evaluated on, and where it comes from.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine/config/config.h"
#include "engine/data/documents.h"

namespace engine::data {

class ManifestWriter {
 public:
  ManifestWriter(const DataConfig& config, int64_t vocab_size);
  ~ManifestWriter();
  // Path, size, SHA-256, bytes used, owning Debian package and licence file of each file that `documents`, a part of
  // the source in order, come from.
  void add(const SourceDocuments& source, const std::string& set, const std::vector<const Document*>& documents);
  void add_left_out(const SourceDocuments& source);
  void add_overlap(const std::string& source, double overlap);
  std::string text() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace engine::data
