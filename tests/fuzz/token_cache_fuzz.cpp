// A token cache, without the hash at its end, which is made here; in memory or left in its file. Documents of one that
// is taken lie in their set, their tokens are tokens, and their files are known.
#include <sys/mman.h>
#include <unistd.h>

#include "engine/core/hash.h"
#include "engine/data/corpus_cache.h"
#include "engine/data/tokenizer.h"
#include "tests/fuzz/fuzz_target.h"

namespace {

void check(const engine::data::TokenSet& set) {
  for (const engine::data::DocumentPlace& place : set.places) {
    if (set.files.at(place.file).size() > 4096) __builtin_trap();
    for (uint16_t token : set.tokens.slice(place.first_token, place.num_tokens)) {
      if (token > engine::data::kEndOfDocument) __builtin_trap();
    }
  }
}

}  // namespace

FUZZ_TARGET(bytes) {
  using namespace engine::data;
  static const int file = memfd_create("cache", MFD_CLOEXEC);
  static const std::string path = "/proc/self/fd/" + std::to_string(file);
  const engine::Hash128 hash = engine::xxh3_128(bytes.data(), static_cast<int64_t>(bytes.size()));
  const off_t size = static_cast<off_t>(bytes.size());
  if (ftruncate(file, 0) != 0 || pwrite(file, bytes.data(), bytes.size(), 0) != size ||
      pwrite(file, &hash, sizeof(hash), size) != sizeof(hash)) {
    __builtin_trap();
  }
  Corpus corpus;
  if (!load_corpus(path, corpus, bytes.size() % 2 == 0 ? INT64_MAX : 0)) return;
  for (const SourceSplit& source : corpus.sources) {
    check(source.train);
    check(source.held_out);
  }
  for (const TokenSet& set : corpus.ood) check(set);
}
