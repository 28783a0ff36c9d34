#include "engine/data/corpus.h"

#include <cstdio>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "engine/config/units.h"
#include "engine/core/error.h"
#include "engine/data/corpus_cache.h"
#include "engine/data/decontaminate.h"
#include "engine/data/manifest.h"
#include "engine/data/overlap.h"
#include "engine/data/tokenizer.h"

namespace engine::data {
namespace {

// Where the texts of a set are that does not lie in memory; null: it does.
std::shared_ptr<SpillFile> file_of(const std::vector<const Document*>& documents) {
  for (const Document* document : documents) {
    if (document->spill) return document->spill;
  }
  return nullptr;
}

}  // namespace

TokenSet tokenize(const std::string& name, const std::vector<const Document*>& documents, int64_t vocab_size) {
  if (vocab_size < 256) {
    throw Error(ExitCode::usage, str("the model has a vocabulary of ", vocab_size,
                                     " but text is read as bytes, which needs at least 256; use another model"));
  }
  TokenSet set{.name = name, .tokens = {}, .num_documents = static_cast<int64_t>(documents.size()), .num_bytes = 0};
  const std::shared_ptr<SpillFile> file = file_of(documents);
  std::vector<uint16_t> tokens;
  const auto num_tokens = [&] { return static_cast<int64_t>(file ? set.tokens.size() : tokens.size()); };
  for (const Document* document : documents) {
    const int64_t bytes = document->bytes();
    const bool ends_document = num_tokens() > 0 && vocab_size > kEndOfDocument;
    if (set.files.empty() || set.files.back() != document->path) set.files.push_back(document->path);
    set.places.push_back({.first_token = num_tokens() + (ends_document ? 1 : 0),
                          .num_tokens = bytes,
                          .file = set.files.size() - 1,
                          .line = document->line,
                          .line_begin = document->line_begin,
                          .text_begin = document->text_begin});
    if (file) {
      const int64_t begin = document->spill ? document->spill_begin : file->append(document->text);
      set.tokens.append_text(file, begin, bytes, ends_document);
    } else {
      if (ends_document) tokens.push_back(static_cast<uint16_t>(kEndOfDocument));
      for (char c : document->text) tokens.push_back(static_cast<unsigned char>(c));
    }
    set.num_bytes += bytes;
  }
  if (!file) set.tokens = TokenList(std::move(tokens));
  return set;
}

DocumentSets read_document_sets(const DataConfig& config, const std::string& base_directory, uint64_t seed,
                                int64_t most_held) {
  if (config.sources.empty()) {
    throw Error(ExitCode::data,
                "data.sources is empty; name at least one text, e.g. {\"name\": \"mine\", \"files\": \"text/*.txt\"}");
  }
  // In one call, so that no text of training is also called out of distribution.
  std::vector<SourceConfig> all = config.sources;
  all.insert(all.end(), config.ood.begin(), config.ood.end());
  DocumentSets sets;
  sets.sources = read_sources(all, config.filters, base_directory, seed, most_held,
                              config.on_bad_record == "skip" ? BadRecords::skip : BadRecords::error);
  const auto first_ood = sets.sources.begin() + static_cast<int64_t>(config.sources.size());
  sets.ood.assign(std::make_move_iterator(first_ood), std::make_move_iterator(sets.sources.end()));
  sets.sources.erase(first_ood, sets.sources.end());
  sets.splits = split_sources(std::move(sets.sources), config.held_out, seed);
  if (config.held_out.max_overlap) decontaminate(sets, config.held_out);
  return sets;
}

namespace {

Corpus build_corpus(const DataConfig& config, const std::string& base_directory, uint64_t seed, int64_t vocab_size,
                    int64_t most_held) {
  const DocumentSets sets = read_document_sets(config, base_directory, seed, most_held);
  ManifestWriter manifest(config, vocab_size);
  for (const SourceDocuments& source : sets.sources) manifest.add_left_out(source);
  for (const SourceDocuments& source : sets.ood) manifest.add_left_out(source);
  Corpus corpus;
  for (size_t s = 0; s < sets.splits.size(); ++s) {
    const SourceDocuments& source = sets.sources[s];
    const DocumentList train = pointers_to(sets.splits[s].train), held_out = pointers_to(sets.splits[s].held_out);
    SourceSplit& split = corpus.sources.emplace_back();
    split.weight = config.sources[s].weight;
    split.overlap = ngram_overlap(held_out, train, config.held_out.ngram);
    split.train = tokenize(source.name, train, vocab_size);
    split.held_out = tokenize(source.name, held_out, vocab_size);
    manifest.add(source, "train", train);
    manifest.add(source, "held_out", held_out);
    manifest.add_overlap(source.name, split.overlap);
  }
  for (const SourceDocuments& source : sets.ood) {
    corpus.ood.push_back(tokenize(source.name, pointers_to(source.documents), vocab_size));
    manifest.add(source, "ood", pointers_to(source.documents));
  }
  corpus.manifest = manifest.text();
  return corpus;
}

}  // namespace

Corpus prepare_corpus(const DataConfig& config, const std::string& base_directory, uint64_t seed, int64_t vocab_size,
                      int64_t most_held) {
  if (!config.cache_dir) return build_corpus(config, base_directory, seed, vocab_size, most_held);
  const std::string key = corpus_key(config, base_directory, seed, vocab_size);
  const std::string path = str(*config.cache_dir, "/", key, ".tokens");
  Corpus corpus;
  if (load_corpus(path, corpus, most_held)) return corpus;
  corpus = build_corpus(config, base_directory, seed, vocab_size, most_held);
  // files that changed while they were read are not what the key says
  if (corpus_key(config, base_directory, seed, vocab_size) == key && !save_corpus(path, corpus))
    std::fprintf(stderr, "warning: cannot write the token cache %s; going on without it\n", path.c_str());
  return corpus;
}

std::vector<std::string> Corpus::summary(int64_t ngram) const {
  const nlohmann::json described = nlohmann::json::parse(manifest).at("sources");
  const auto left_out = [&](const std::string& source) {
    std::string text;
    for (const auto& [reason, count] : described.at(source).at("left_out").items())
      text += str(text.empty() ? ", left out: " : ", ", count.get<int64_t>(), " ", reason);
    return text;
  };
  std::vector<std::string> lines;
  for (const SourceSplit& source : sources) {
    char overlap[64] = "";
    if (source.held_out.num_bytes > 0) {
      std::snprintf(overlap, sizeof(overlap), ", %lld-word overlap %.1f %%", static_cast<long long>(ngram),
                    source.overlap * 100);
    }
    lines.push_back(str(source.train.name, ": ", source.train.num_documents + source.held_out.num_documents,
                        " documents, ", print_bytes(source.train.num_bytes), " to train, ",
                        print_bytes(source.held_out.num_bytes), " held out", overlap, left_out(source.train.name)));
  }
  for (const TokenSet& set : ood) {
    lines.push_back(str(set.name, ": ", set.num_documents, " documents, ", print_bytes(set.num_bytes),
                        ", out of distribution", left_out(set.name)));
  }
  return lines;
}

std::string Corpus::text_hash() const {
  constexpr int64_t kPiece = 1 << 20;  // tokens
  Sha256 hash;
  for (const SourceSplit& source : sources) {
    const TokenList& tokens = source.train.tokens;
    hash.update(str(source.train.name.size(), " ", source.train.name, " ", tokens.size(), " "));
    for (int64_t first = 0, size = static_cast<int64_t>(tokens.size()); first < size; first += kPiece) {
      const std::vector<uint16_t> piece = tokens.slice(first, std::min(kPiece, size - first));
      const Hash128 text = xxh3_128(piece.data(), static_cast<int64_t>(piece.size() * sizeof(uint16_t)));
      hash.update(str(text.low, " ", text.high, " "));
    }
  }
  return to_hex(hash.finish());
}

int64_t Corpus::train_tokens() const {
  int64_t total = 0;
  for (const SourceSplit& source : sources) total += static_cast<int64_t>(source.train.tokens.size());
  return total;
}

double Corpus::bytes_per_token() const {
  int64_t bytes = 0;
  for (const SourceSplit& source : sources) bytes += source.train.num_bytes;
  return bytes > 0 ? static_cast<double>(bytes) / static_cast<double>(train_tokens()) : 1;
}

}  // namespace engine::data
