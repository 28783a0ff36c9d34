#include "engine/data/corpus_cache.h"

#include <filesystem>

#include "tests/support/corpus.h"
#include "tests/support/temporary_directory.h"

namespace {

using namespace engine;
using namespace engine::data;
using test::check_same;

struct Setup {
  test::TemporaryDirectory directory;
  DataConfig config;

  Setup() {
    for (int i = 0; i < 12; ++i) directory.write(str("text/", i, ".txt"), str("text number ", i, " is short\n"));
    directory.write("lines.jsonl", "{\"text\": \"one\"}\n{\"text\": \"two and more\"}\n");
    directory.write("other.txt", "another kind of text");
    config.sources = {test::source("a", {"text"}), test::source("b", {"lines.jsonl"})};
    config.sources[0].weight = 2.5;
    config.ood = {test::source("o", {"other.txt"})};
    config.held_out.split = "tail";
    config.held_out.fraction = 0.2;
  }
  Corpus prepare() const { return prepare_corpus(config, directory.path(), 1, 257); }
  std::string key(uint64_t seed = 1, int64_t vocabulary = 257) const {
    return corpus_key(config, directory.path(), seed, vocabulary);
  }
  std::string cache_file() const {
    for (const auto& entry : std::filesystem::directory_iterator(directory.path() + "/cache"))
      return entry.path().string();
    return "";
  }
};

}  // namespace

TEST_CASE("corpus_cache: a corpus comes back from the cache as it was prepared") {
  Setup setup;
  const Corpus fresh = setup.prepare();
  setup.config.cache_dir = setup.directory.path() + "/cache";
  check_same(setup.prepare(), fresh);
  const std::string file = setup.cache_file();
  CHECK(file.ends_with(setup.key() + ".tokens"));
  check_same(setup.prepare(), fresh);
  Corpus other = fresh;  // that it is used at all
  std::vector<uint16_t> changed =
      other.sources[0].train.tokens.slice(0, static_cast<int64_t>(other.sources[0].train.tokens.size()));
  changed[3] = 77;
  other.sources[0].train.tokens = changed;
  CHECK(save_corpus(file, other));
  CHECK(setup.prepare().sources[0].train.tokens == changed);
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(setup.directory.path() + "/cache"))
    files += entry.is_regular_file() ? 1 : 0;
  CHECK(files == 1);
}

TEST_CASE("corpus_cache: anything a corpus follows from changes the key, and nothing else does") {
  Setup setup;
  std::vector<std::string> keys = {setup.key()};
  keys.push_back(setup.key(2));
  keys.push_back(setup.key(1, 256));
  const auto changed = [&](const auto& change) {
    Setup other;
    change(other);
    keys.push_back(other.key());
  };
  changed([](Setup& s) { s.directory.write("text/3.txt", "text number 3 is Short\n"); });
  changed([](Setup& s) { s.directory.write("text/new.txt", ""); });
  changed([](Setup& s) { std::filesystem::remove(s.directory.path() + "/text/3.txt"); });
  changed([](Setup& s) {
    std::filesystem::rename(s.directory.path() + "/text/3.txt", s.directory.path() + "/text/33.txt");
  });
  changed([](Setup& s) { s.directory.write("other.txt", "another kind of texts"); });
  changed([](Setup& s) { s.config.held_out.fraction = 0.3; });
  changed([](Setup& s) { s.config.filters.min_bytes = ByteCount{5}; });
  changed([](Setup& s) { s.config.sources[0].weight = 3; });
  changed([](Setup& s) { s.config.sources[0].exclude = {"*/3.txt"}; });
  for (size_t i = 0; i < keys.size(); ++i) {
    for (size_t j = 0; j < i; ++j) CHECK_MESSAGE(keys[i] != keys[j], i, " and ", j);
  }
  Setup elsewhere;  // another directory with the same content
  elsewhere.config.cache_dir = "somewhere";
  elsewhere.directory.write("text/3.txt", "text number 3 is short\n");  // written again, later
  CHECK(elsewhere.key() == keys[0]);
}

TEST_CASE("corpus_cache: a cache file that is damaged anywhere is not used") {
  Setup setup;
  const Corpus fresh = setup.prepare();
  const std::string path = setup.directory.path() + "/c.tokens";
  REQUIRE(save_corpus(path, fresh));
  const std::string whole = setup.directory.read("c.tokens");
  Corpus loaded;
  REQUIRE(load_corpus(path, loaded));
  check_same(loaded, fresh);
  for (size_t at = 0; at < whole.size(); at += at < 3000 ? 7 : 1) {
    std::string damaged = whole;
    damaged[at] = static_cast<char>(damaged[at] ^ 0x21);
    setup.directory.write("c.tokens", damaged);
    CHECK_MESSAGE(!load_corpus(path, loaded), "byte ", at);
    setup.directory.write("c.tokens", whole.substr(0, at));
    CHECK_MESSAGE(!load_corpus(path, loaded), "cut after ", at);
  }
  setup.directory.write("c.tokens", whole + "x");
  CHECK(!load_corpus(path, loaded));
  CHECK(!load_corpus(setup.directory.path(), loaded));
  CHECK(!load_corpus(path + ".none", loaded));
  CHECK(!save_corpus("/proc/none/c.tokens", fresh));
  setup.config.cache_dir = "/proc/none";  // a cache that cannot be written stops nothing
  check_same(setup.prepare(), fresh);
}

TEST_CASE("corpus_cache: a cache file that lies is not used, though its hash is right") {
  Setup setup;
  const std::string path = setup.directory.path() + "/c.tokens";
  REQUIRE(save_corpus(path, setup.prepare()));
  const std::string whole = setup.directory.read("c.tokens");
  const std::string body = whole.substr(0, whole.size() - sizeof(Hash128));
  // Whether it is taken with `text` in place of `old`, and a header size and a hash that fit; read in both ways.
  const auto taken = [&](const std::string& old, const std::string& text) {
    std::string lie = body;
    const size_t at = lie.find(old), begin = lie.find('\n') + 1;
    REQUIRE_MESSAGE(at != std::string::npos, old);
    lie.replace(at, old.size(), text);
    uint64_t header_bytes = 0;
    std::memcpy(&header_bytes, &lie[begin], sizeof(header_bytes));
    if (at < begin + sizeof(header_bytes) + header_bytes) header_bytes += text.size() - old.size();
    std::memcpy(&lie[begin], &header_bytes, sizeof(header_bytes));
    const Hash128 hash = xxh3_128(lie.data(), static_cast<int64_t>(lie.size()));
    lie.append(reinterpret_cast<const char*>(&hash), sizeof(hash));
    setup.directory.write("c.tokens", lie);
    Corpus corpus;
    const bool in_memory = load_corpus(path, corpus), left_there = load_corpus(path, corpus, 0);
    CHECK(in_memory == left_there);
    return in_memory || left_there;
  };
  CHECK(taken("\"ood\":1", "\"ood\":1"));
  CHECK(taken("\"weight\":2.5", "\"weight\":0.5"));
  for (const char* count : {"0", "2", "-1", "1.0", "1e3", "\"1\"", "18446744073709551615", "9223372036854775807"}) {
    CHECK_MESSAGE(!taken("\"ood\":1", str("\"ood\":", count)), count);
  }
  CHECK(!taken("\"sources\":[", "\"sources\":[{\"weight\":1,\"overlap\":0},"));
  for (const char* key : {"documents", "bytes", "tokens", "places"}) {
    for (const char* count : {"7", "-1", "4611686018427387904", "9223372036854775807", "[]"}) {
      const size_t at = body.find(str("\"", key, "\":")), end = body.find(',', at);
      CHECK_MESSAGE(!taken(body.substr(at, end - at), str("\"", key, "\":", count)), key, " ", count);
    }
  }
  // the place of the second document with another value somewhere
  const DocumentPlace second = setup.prepare().sources[0].train.places[1];
  const auto taken_with = [&](const auto& change) {
    DocumentPlace changed = second;
    change(changed);
    return taken(std::string(reinterpret_cast<const char*>(&second), sizeof(second)),
                 std::string(reinterpret_cast<const char*>(&changed), sizeof(changed)));
  };
  CHECK(taken_with([](DocumentPlace&) {}));
  CHECK(!taken_with([](DocumentPlace& p) { --p.first_token; }));
  CHECK(!taken_with([](DocumentPlace& p) { p.num_tokens = -1; }));
  CHECK(!taken_with([](DocumentPlace& p) { p.num_tokens = INT64_MAX; }));
  CHECK(!taken_with([](DocumentPlace& p) { p.file = 99; }));
  CHECK(!taken_with([](DocumentPlace& p) { p.file = SIZE_MAX; }));
  CHECK(!taken_with([](DocumentPlace& p) { p.text_begin = -5; }));
  const std::string separator = std::string("\n\0\0\1t\0", 6);  // end of a line, end of a document, the next one
  CHECK(taken(separator, separator));
  CHECK(!taken(separator, std::string("\n\0\1\1t\0", 6)));
}
