// The token cache: a corpus as it was prepared once, found again by the content of its files.
//
// A cache file is a line that names the format, the size of a header, the header (JSON), the tokens and places of every
// set as they are in memory, and a hash of it all. It is read on the machine that wrote it or one of its kind.
#pragma once

#include <cstdint>
#include <string>

#include "engine/data/corpus.h"

namespace engine::data {

// Everything a corpus follows from: the settings, and the name and SHA-256 of every file they lead to. Reads all files
// once, but neither decompresses nor parses them.
std::string corpus_key(const DataConfig& config, const std::string& base_directory, uint64_t seed, int64_t vocab_size);

// False if there is no whole cache file at `path`. More than `most_held` bytes of tokens stay in the file and are read
// as they are needed.
bool load_corpus(const std::string& path, Corpus& corpus, int64_t most_held = INT64_MAX);

// By temporary file and rename, so that nobody sees a part of it. False if it could not be written.
bool save_corpus(const std::string& path, const Corpus& corpus);

}  // namespace engine::data
