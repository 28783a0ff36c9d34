#include "engine/data/corpus_cache.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "engine/config/canonical.h"
#include "engine/core/error.h"
#include "engine/core/hash.h"
#include "engine/core/thread_pool.h"
#include "engine/data/source_files.h"
#include "engine/data/text_stream.h"
#include "engine/data/tokenizer.h"

namespace engine::data {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

namespace {

// To be raised whenever the same files and settings give another corpus: reading, filters, split, tokens, manifest.
constexpr char kFormat[] = "switchyard corpus 4\n";

struct NotWhole {};  // thrown where a cache file cannot be right

// A file that is read or written from its beginning, and the hash of what went through.
class Stream {
 public:
  Stream(const std::string& path, int flags) : file_(open(path.c_str(), flags | O_CLOEXEC, 0644)) {}
  ~Stream() {
    if (file_ >= 0) close(file_);
  }
  Stream(const Stream&) = delete;
  int64_t size() const {
    struct stat info {};
    return file_ >= 0 && fstat(file_, &info) == 0 && S_ISREG(info.st_mode) ? info.st_size : -1;
  }
  bool read(void* to, int64_t bytes) {
    for (int64_t done = 0; done < bytes;) {
      const ssize_t count = pread(file_, static_cast<char*>(to) + done, static_cast<size_t>(bytes - done),
                                  static_cast<off_t>(at_ + done));
      if (count <= 0) return false;
      done += count;
    }
    return add(to, bytes);
  }
  bool write(const void* from, int64_t bytes) {
    for (int64_t done = 0; done < bytes;) {
      const ssize_t count = pwrite(file_, static_cast<const char*>(from) + done, static_cast<size_t>(bytes - done),
                                   static_cast<off_t>(at_ + done));
      if (count <= 0) return false;
      done += count;
    }
    return add(from, bytes);
  }
  bool sync() const { return file_ >= 0 && fsync(file_) == 0; }
  int64_t at() const { return at_; }
  Hash128 hash() const { return hash_.value(); }

 private:
  bool add(const void* data, int64_t bytes) {
    at_ += bytes;
    hash_.update(data, bytes);
    return true;
  }
  int file_;
  int64_t at_ = 0;
  Xxh3 hash_;
};

std::string file_hash(const std::string& place) {
  TextStream file(place, Decompress::no);
  while (!file.next().empty()) {
  }
  return file.problem().empty() ? file.file_sha256() : file.problem();
}

// Every set of a corpus in the order of the file.
std::vector<TokenSet*> sets_of(Corpus& corpus) {
  std::vector<TokenSet*> sets;
  for (SourceSplit& source : corpus.sources) {
    sets.push_back(&source.train);
    sets.push_back(&source.held_out);
  }
  for (TokenSet& set : corpus.ood) sets.push_back(&set);
  return sets;
}

Json describe(const TokenSet& set) {
  return {{"name", set.name},
          {"documents", set.num_documents},
          {"bytes", set.num_bytes},
          {"tokens", set.tokens.size()},
          {"places", set.places.size()},
          {"files", set.files}};
}

template <class T>
int64_t bytes_of(const std::vector<T>& values) {
  return static_cast<int64_t>(values.size() * sizeof(T));
}

bool is_no_token(uint16_t token) {
  return token > kEndOfDocument;
}

constexpr int64_t kTokensPerPiece = 1 << 20;  // that are hashed and read at once

// A count of a header, which may say anything.
int64_t count_of(const Json& json, const char* key) {
  const Json& value = json.at(key);
  const bool fits = value.is_number_unsigned() && value.get<uint64_t>() <= static_cast<uint64_t>(INT64_MAX);
  if (!fits) throw NotWhole();
  return value.get<int64_t>();
}

// Whether the sets of a header are those of its sources and take all of the room in the file.
bool fits(const Json& header, int64_t room) {
  const uint64_t sets = header.at("sets").size(), sources = header.at("sources").size();
  if (2 * sources > sets || sets - 2 * sources != static_cast<uint64_t>(count_of(header, "ood"))) return false;
  for (const Json& set : header.at("sets")) {
    for (const auto& [key, size] : {std::pair{"tokens", sizeof(uint16_t)}, {"places", sizeof(DocumentPlace)}}) {
      const int64_t count = count_of(set, key);
      if (count > room / static_cast<int64_t>(size)) return false;
      room -= count * static_cast<int64_t>(size);
    }
  }
  return room == static_cast<int64_t>(sizeof(Hash128));
}

// The sets of a header that fits, with their sizes, still empty.
Corpus corpus_of(const Json& header) {
  Corpus corpus;
  for (const Json& source : header.at("sources"))
    corpus.sources.push_back(
        {.weight = source.at("weight"), .overlap = source.at("overlap"), .train = {}, .held_out = {}});
  corpus.ood.resize(static_cast<size_t>(count_of(header, "ood")));
  corpus.manifest = header.at("manifest");
  const std::vector<TokenSet*> sets = sets_of(corpus);
  for (size_t s = 0; s < sets.size(); ++s) {
    const Json& from = header.at("sets").at(s);
    *sets[s] = {.name = from.at("name"),
                .tokens = {},
                .num_documents = count_of(from, "documents"),
                .num_bytes = count_of(from, "bytes"),
                .files = from.at("files")};
    sets[s]->places.resize(static_cast<size_t>(count_of(from, "places")));
  }
  return corpus;
}

// Documents in order, with one token between them where they are told apart, each in a file of the list.
bool is_consistent(const TokenSet& set) {
  int64_t end = 0, bytes = 0;
  for (const DocumentPlace& place : set.places) {
    if (place.first_token != end && (end == 0 || place.first_token != end + 1)) return false;
    const int64_t room = static_cast<int64_t>(set.tokens.size()) - place.first_token;
    if (place.num_tokens < 0 || place.num_tokens > room) return false;
    if (place.file >= set.files.size() || place.line < 0 || place.line_begin < 0 || place.text_begin < 0) return false;
    end = place.first_token + place.num_tokens;
    bytes += place.num_tokens;
  }
  return end == static_cast<int64_t>(set.tokens.size()) &&
         set.num_documents == static_cast<int64_t>(set.places.size()) && set.num_bytes == bytes;
}

// The tokens of a set, which are next in the file: into memory, or hashed and left where they are.
bool read_tokens(Stream& file, int64_t count, const std::shared_ptr<SpillFile>& left_in, TokenList& tokens) {
  std::vector<uint16_t> read;
  const int64_t begin = file.at();
  for (int64_t at = 0; at < count; at += kTokensPerPiece) {
    const int64_t piece = std::min(kTokensPerPiece, count - at);
    const size_t kept = left_in ? 0 : read.size();
    read.resize(kept + static_cast<size_t>(piece));
    if (!file.read(read.data() + kept, piece * static_cast<int64_t>(sizeof(uint16_t)))) return false;
    if (std::any_of(read.begin() + static_cast<int64_t>(kept), read.end(), is_no_token)) return false;
  }
  tokens = left_in ? TokenList::in_file(left_in, begin, count) : TokenList(std::move(read));
  return true;
}

bool write_tokens(Stream& file, const TokenList& tokens) {
  const int64_t count = static_cast<int64_t>(tokens.size());
  std::vector<uint16_t> piece;
  for (int64_t at = 0; at < count; at += kTokensPerPiece) {
    piece.resize(static_cast<size_t>(std::min(kTokensPerPiece, count - at)));
    tokens.read(at, static_cast<int64_t>(piece.size()), piece.data());
    if (!file.write(piece.data(), bytes_of(piece))) return false;
  }
  return true;
}

}  // namespace

std::string corpus_key(const DataConfig& config, const std::string& base_directory, uint64_t seed, int64_t vocab_size) {
  Config settings;
  settings.data = config;
  settings.data.cache_dir.reset();
  std::error_code error;
  const auto packages = fs::last_write_time("/var/lib/dpkg/status", error);  // the manifest names them
  Sha256 hash;
  hash.update(str(kFormat, canonical_json(settings), seed, " ", vocab_size, " ",
                  error ? 0 : packages.time_since_epoch().count(), "\n"));
  for (const auto* sources : {&config.sources, &config.ood}) {
    for (const SourceConfig& source : *sources) {
      const std::vector<std::string> files = find_files(source.files, source.exclude, base_directory);
      std::vector<std::string> hashes(files.size());
      parallel_for(static_cast<int64_t>(files.size()), [&](int64_t i) {
        const size_t at = static_cast<size_t>(i);
        hashes[at] = file_hash(place_of(base_directory, files[at]));
      });
      for (size_t i = 0; i < files.size(); ++i) hash.update(str(files[i].size(), " ", files[i], " ", hashes[i], "\n"));
      hash.update("end of a source\n");
    }
  }
  return to_hex(hash.finish());
}

bool load_corpus(const std::string& path, Corpus& corpus, int64_t most_held) {
  Stream file(path, O_RDONLY);
  const int64_t size = file.size();
  char format[sizeof(kFormat) - 1];
  uint64_t header_bytes = 0;
  if (size < 0 || !file.read(format, sizeof(format)) || std::memcmp(format, kFormat, sizeof(format)) != 0) return false;
  if (!file.read(&header_bytes, sizeof(header_bytes)) || header_bytes > static_cast<uint64_t>(size)) return false;
  std::string text(header_bytes, '\0');
  if (!file.read(text.data(), static_cast<int64_t>(text.size()))) return false;
  try {
    const Json header = Json::parse(text);
    if (!fits(header, size - file.at())) return false;
    Corpus loaded = corpus_of(header);
    const std::shared_ptr<SpillFile> left_in = size > most_held ? std::make_shared<SpillFile>(path) : nullptr;
    if (left_in && !left_in->is_open()) return false;
    const std::vector<TokenSet*> sets = sets_of(loaded);
    for (size_t s = 0; s < sets.size(); ++s) {
      TokenSet* set = sets[s];
      if (!read_tokens(file, header.at("sets").at(s).at("tokens"), left_in, set->tokens)) return false;
      if (!file.read(set->places.data(), bytes_of(set->places)) || !is_consistent(*set)) return false;
    }
    const Hash128 expected = file.hash();
    Hash128 stored;
    if (!file.read(&stored, sizeof(stored)) || !(stored == expected)) return false;
    corpus = std::move(loaded);
    return true;
  } catch (const Json::exception&) {  // not a header of ours
    return false;
  } catch (const NotWhole&) {
    return false;
  }
}

bool save_corpus(const std::string& path, const Corpus& corpus) {
  Json header = {
      {"manifest", corpus.manifest}, {"sources", Json::array()}, {"ood", corpus.ood.size()}, {"sets", Json::array()}};
  for (const SourceSplit& source : corpus.sources)
    header["sources"].push_back({{"weight", source.weight}, {"overlap", source.overlap}});
  const std::vector<TokenSet*> sets = sets_of(const_cast<Corpus&>(corpus));
  for (const TokenSet* set : sets) header["sets"].push_back(describe(*set));
  std::string text;
  try {
    text = header.dump();
  } catch (const Json::exception&) {  // a file's name that is no UTF-8 cannot be kept as it is
    return false;
  }
  const uint64_t header_bytes = text.size();
  std::error_code error;
  fs::create_directories(fs::path(path).parent_path(), error);
  const std::string temporary = str(path, ".", getpid(), ".tmp");
  {
    Stream file(temporary, O_WRONLY | O_CREAT | O_TRUNC);
    bool good = file.size() >= 0 && file.write(kFormat, sizeof(kFormat) - 1) &&
                file.write(&header_bytes, sizeof(header_bytes)) &&
                file.write(text.data(), static_cast<int64_t>(text.size()));
    for (const TokenSet* set : sets) {
      good = good && write_tokens(file, set->tokens) && file.write(set->places.data(), bytes_of(set->places));
    }
    const Hash128 hash = file.hash();
    good = good && file.write(&hash, sizeof(hash)) && file.sync();
    if (good && std::rename(temporary.c_str(), path.c_str()) == 0) return true;
  }
  unlink(temporary.c_str());
  return false;
}

}  // namespace engine::data
