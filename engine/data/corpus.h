// Corpus: the tokens of every source, split into training and held-out sets, and the out-of-distribution sets.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/config/config.h"
#include "engine/data/documents.h"
#include "engine/data/split.h"
#include "engine/data/token_list.h"

namespace engine::data {

// Where a document of a set comes from.
struct DocumentPlace {
  int64_t first_token = 0, num_tokens = 0;           // in the set, without the token that ends it
  size_t file = 0;                                   // in TokenSet::files
  int64_t line = 0, line_begin = 0, text_begin = 0;  // as in Document
};

struct TokenSet {
  std::string name;  // of the source
  TokenList tokens;  // documents with the end-of-document token between them, none after the last
  int64_t num_documents = 0;
  int64_t num_bytes = 0;
  std::vector<std::string> files = {};
  std::vector<DocumentPlace> places = {};  // by first token
};

struct SourceSplit {
  double weight = 1;
  double overlap = 0;  // share of the held-out runs of held_out.ngram words that also stand in training
  TokenSet train, held_out;
};

struct Corpus {
  std::vector<SourceSplit> sources;
  std::vector<TokenSet> ood;
  std::string manifest;  // data.manifest.json

  // One line per source, for people. `ngram` is held_out.ngram.
  std::vector<std::string> summary(int64_t ngram) const;
  int64_t train_tokens() const;
  double bytes_per_token() const;  // of the training text; 1 without any
  // Of the tokens that are trained on, source by source: two corpora with the same one give the same samples.
  std::string text_hash() const;
};

// The documents behind a corpus.
struct DocumentSets {
  std::vector<SourceDocuments> sources;  // the documents are in `splits`
  std::vector<Split> splits;             // by source
  std::vector<SourceDocuments> ood;
};

// Reads, filters, splits and decontaminates everything `config` names. More text than `most_held` is kept in a file.
// Throws Error(data).
DocumentSets read_document_sets(const DataConfig& config, const std::string& base_directory, uint64_t seed,
                                int64_t most_held = INT64_MAX);

// The same as tokens. Relative paths start at `base_directory`. Depends on the files, the config and the seed alone;
// with data.cache_dir what was prepared before from the same content is used again. Of a large text memory holds at
// most about `most_held` bytes, and some hundred for each document. Throws Error(data).
Corpus prepare_corpus(const DataConfig& config, const std::string& base_directory, uint64_t seed, int64_t vocab_size,
                      int64_t most_held = kMostHeldText);

// Tokens of documents in order, as a model with this vocabulary reads them: with exactly 256 ids there is no
// end-of-document token.
TokenSet tokenize(const std::string& name, const std::vector<const Document*>& documents, int64_t vocab_size);

}  // namespace engine::data
