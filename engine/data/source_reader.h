// Reads the documents of one source.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <utility>

#include "engine/data/documents.h"

namespace engine::data {

using SeenTexts = std::set<std::pair<uint64_t, uint64_t>>;  // hashes of the texts used so far

// Under max_bytes documents are kept in a random order of their names while they fit. Texts that cannot be among them
// are forgotten while reading, and the few that are wanted after all are read again. What is more than `keeper` may
// hold in memory goes to its file.
SourceDocuments read_source(const SourceConfig& config, const FilterConfig& filters, const std::string& base_directory,
                            uint64_t seed, SeenTexts& seen, TextKeeper& keeper, BadRecords bad_records);

}  // namespace engine::data
