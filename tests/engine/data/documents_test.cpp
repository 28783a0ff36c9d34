#include "engine/data/documents.h"

#include <sys/resource.h>
#include <zlib.h>
#include <zstd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "engine/data/corpus.h"
#include "engine/data/document_reader.h"
#include "tests/support/corpus.h"
#include "tests/support/temporary_directory.h"

namespace {

using namespace engine;
using namespace engine::data;
using test::noise;
using test::source;

std::string gzip(const std::string& text) {
  z_stream stream{};
  REQUIRE(deflateInit2(&stream, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) == Z_OK);
  std::string out(deflateBound(&stream, text.size()) + 64, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  REQUIRE(deflate(&stream, Z_FINISH) == Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

std::string zstd(const std::string& text) {
  std::string out(ZSTD_compressBound(text.size()), '\0');
  out.resize(ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 1));
  return out;
}

SourceDocuments read(const test::TemporaryDirectory& directory, const SourceConfig& config) {
  return read_sources({config}, {}, directory.path(), 1)[0];
}

int64_t peak_memory() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss * 1024;
}

}  // namespace

TEST_CASE("documents: each line of a .jsonl file is a document, and its other keys are passed over") {
  test::TemporaryDirectory directory;
  directory.write("a.jsonl",
                  "{\"id\": 1, \"text\": \"one\\n\\u00e9\"}\n"
                  "{\"text\": \"two\", \"meta\": {\"text\": \"inner\", \"list\": [\"text\", {\"text\": 4}]}}\r\n"
                  "{\"tags\": [], \"text\": \"three\"}");
  const SourceDocuments s = read(directory, source("s", {"a.jsonl"}));
  REQUIRE(s.documents.size() == 3);
  CHECK(s.documents[0].text == "one\n\xc3\xa9");
  CHECK(s.documents[1].text == "two");
  CHECK(s.documents[2].text == "three");
  CHECK(s.documents[2].name() == "a.jsonl:3");
  const std::string whole = directory.read("a.jsonl");
  CHECK(whole.substr(static_cast<size_t>(s.documents[1].line_begin), 8) == "{\"text\":");
  CHECK(s.files.at("a.jsonl").bytes == static_cast<int64_t>(whole.size()));
  CHECK(s.files.at("a.jsonl").sha256 == to_hex(sha256(whole.data(), static_cast<int64_t>(whole.size()))));
}

TEST_CASE("documents: a line of a .jsonl file that is no object with a text is an error with its number") {
  struct Mistake {
    const char *line, *message;
  };
  for (const Mistake& mistake :
       {Mistake{"plain text", "but no valid JSON at byte 1 of the line"},
        Mistake{"{\"text\": \"cut", "no valid JSON at byte 14"}, Mistake{"{\"text\": \"a\"} {}", "no valid JSON"},
        Mistake{"", "no valid JSON"}, Mistake{"{\"text\": \"\xff\"}", "no valid JSON"},
        Mistake{"[\"text\"]", "but it is a list"}, Mistake{"\"text\"", "but it is a string"},
        Mistake{"17", "but it is a number"}, Mistake{"{}", "but it has no \"text\""},
        Mistake{"{\"Text\": \"a\"}", "but it has no \"text\""},
        Mistake{"{\"text\": 3}", "but its \"text\" is a number"},
        Mistake{"{\"text\": null}", "but its \"text\" is null"},
        Mistake{"{\"text\": [\"a\"]}", "but its \"text\" is a list"},
        Mistake{"{\"text\": {\"text\": \"a\"}}", "but its \"text\" is an object"},
        Mistake{"{\"text\": \"a\", \"text\": \"b\"}", "stands in it twice"}}) {
    CAPTURE(mistake.line);
    test::TemporaryDirectory directory;
    directory.write("d/a.jsonl", str("{\"text\": \"fine\"}\n", mistake.line, "\n{\"text\": \"fine, too\"}\n"));
    try {
      read(directory, source("s", {"d"}));
      FAIL_CHECK("the line was read");
    } catch (const Error& error) {
      CHECK(error.code() == ExitCode::data);
      CHECK(std::string(error.what()).starts_with("d/a.jsonl:2: a line of a .jsonl file must be an object like"));
      CHECK_MESSAGE(std::string(error.what()).find(mistake.message) != std::string::npos, error.what());
    }
  }
}

TEST_CASE("documents: lines that cannot be read are skipped where that is asked for, counted and named once") {
  test::TemporaryDirectory directory;
  const std::string good = nlohmann::json{{"text", noise(1, 5000)}}.dump() + "\n";
  const std::string other = nlohmann::json{{"text", noise(2, 5000)}}.dump();
  directory.write("a.jsonl", good + "plain text\n" + "{\"id\": 4}\n\n" + other);
  directory.write("b.jsonl", "{\"text\": \"cut");
  SourceConfig config = source("s", {"*.jsonl"});
  const std::string reason = "unreadable as a record (data.on_bad_record)";
  const std::vector<std::string> names = {
      "a.jsonl:2: no valid JSON at byte 1 of the line", "a.jsonl:3: it has no \"text\"",
      "a.jsonl:4: no valid JSON at byte 1 of the line", "b.jsonl:1: no valid JSON at byte 14 of the line"};
  for (const int64_t cap : {20000, 6000, 5000}) {  // a small one lets the second text be read twice
    config.max_bytes = ByteCount{cap};
    const SourceDocuments s = read_sources({config}, {}, directory.path(), 1, INT64_MAX, BadRecords::skip)[0];
    CHECK(s.documents.size() == (cap == 20000 ? 2 : 1));
    for (const Document& document : s.documents) {
      CHECK(document.text == noise(document.line == 1 ? 1 : 2, 5000));
      CHECK(document.line_begin == (document.line == 1 ? 0 : static_cast<int64_t>(good.size()) + 22));
    }
    CHECK(s.left_out.at(reason) == 4);
    CHECK(s.left_out_names.at(reason) == names);
  }
  CHECK_THROWS_WITH_AS(read(directory, config), doctest::Contains("a.jsonl:2: a line of a .jsonl file must be"), Error);
  CHECK_THROWS_WITH_AS(read(directory, config), doctest::Contains(", or set data.on_bad_record to \"skip\""), Error);
  CHECK_THROWS_WITH_AS(
      read_sources({source("s", {"b.jsonl"})}, {}, directory.path(), 1, INT64_MAX, BadRecords::skip),
      doctest::Contains("no document left: 1 unreadable as a record (data.on_bad_record) (b.jsonl:1: no valid JSON"),
      Error);
}

TEST_CASE("documents: a bad record counts once where texts are forgotten under a cap and read again") {
  test::TemporaryDirectory directory;
  const std::vector<int64_t> sizes = {4000, 6000, 800, 700, 500};
  std::string lines = "plain text\n";
  for (size_t i = 0; i < sizes.size(); ++i) {
    lines += nlohmann::json{{"text", noise(i, sizes[i])}}.dump() + "\n";
  }
  directory.write("a.jsonl", lines);
  SourceConfig config = source("s", {"a.jsonl"});
  config.max_bytes = ByteCount{5000};  // 12,000 bytes are more than twice as much
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    CAPTURE(seed);
    const SourceDocuments s = read_sources({config}, {}, directory.path(), seed, INT64_MAX, BadRecords::skip)[0];
    CHECK(s.left_out.at("unreadable as a record (data.on_bad_record)") == 1);
    for (const Document& document : s.documents) {
      const size_t i = static_cast<size_t>(document.line) - 2;
      CHECK(document.text == noise(i, sizes[i]));
    }
  }
}

TEST_CASE("documents: a line of more than 256 MiB is a bad record like others, and is not kept") {
  test::TemporaryDirectory directory;
  const std::string part = zstd(std::string(9 << 20, 'x'));
  std::string packed = zstd("{\"text\": \"one\"}\n{\"text\": \"");
  for (int i = 0; i < 40; ++i) packed += part;
  directory.write("a.jsonl.zst", packed + zstd("\"}\n{\"text\": \"three\"}\n"));
  const SourceConfig config = source("s", {"a.jsonl.zst"});
  const SourceDocuments s = read_sources({config}, {}, directory.path(), 1, INT64_MAX, BadRecords::skip)[0];
  REQUIRE(s.documents.size() == 2);
  CHECK(s.documents[1].text == "three");
  CHECK(s.documents[1].line_begin == 16 + 10 + 40 * (int64_t{9} << 20) + 3);
  CHECK(s.left_out_names.begin()->second == std::vector<std::string>{"a.jsonl.zst:2: it has more than 256 MiB"});
  CHECK_THROWS_WITH_AS(read(directory, config), doctest::Contains("but it has more than 256 MiB"), Error);
}

TEST_CASE("documents: .gz and .zst are read as what is in them, several parts in a row as one text") {
  test::TemporaryDirectory directory;
  const std::string text = noise(1, 3000000), lines = "{\"text\": \"one\"}\n{\"text\": \"two\"}\n";
  directory.write("a.txt.gz", gzip(text.substr(0, 1000)) + gzip(text.substr(1000)));
  directory.write("b.txt.zst", zstd(text.substr(0, 2000000)) + zstd(text.substr(2000000) + "end"));
  directory.write("c.jsonl.gz", gzip(lines));
  directory.write("d.jsonl.zst", zstd("{\"text\": \"three\"}"));
  directory.write("e.gz", gzip("plain"));
  const SourceDocuments s = read(directory, source("s", {"."}));
  REQUIRE(s.documents.size() == 6);
  CHECK(s.documents[0].text == text);
  CHECK(s.documents[1].text == text + "end");
  CHECK(s.documents[3].text == "two");
  CHECK(s.documents[3].name() == "c.jsonl.gz:2");
  CHECK(s.documents[3].line_begin == 16);
  CHECK(s.documents[4].text == "three");
  CHECK(s.documents[5].text == "plain");
  const std::string packed = directory.read("a.txt.gz");  // the manifest is about the file as it lies there
  CHECK(s.files.at("a.txt.gz").bytes == static_cast<int64_t>(packed.size()));
  CHECK(s.files.at("a.txt.gz").sha256 == to_hex(sha256(packed.data(), static_cast<int64_t>(packed.size()))));
}

TEST_CASE("documents: what cannot be decompressed is counted and named, and never used in part") {
  const std::string text = noise(2, 100000);
  for (const bool gz : {true, false}) {
    CAPTURE(gz);
    test::TemporaryDirectory directory;
    const std::string good = gz ? gzip(text) : zstd(text), suffix = gz ? ".gz" : ".zst";
    directory.write("good.txt", "a text");
    directory.write("cut" + suffix, good.substr(0, good.size() / 2));
    directory.write("empty" + suffix, "");
    directory.write("plain" + suffix, "not compressed at all");
    directory.write("tail" + suffix, good + "garbage that is no further part");
    directory.write("binary" + suffix, gz ? gzip(std::string(100, '\0')) : zstd(std::string(100, '\0')));
    const SourceDocuments s = read(directory, source("s", {"."}));
    REQUIRE(s.documents.size() == 1);
    CHECK(s.left_out.at("damaged compressed data") == 4);
    CHECK(s.left_out.at("not UTF-8 text") == 1);
    CHECK(s.no_text.size() == 5);
    CHECK(s.no_text.at("cut" + suffix) == "damaged compressed data");
    const std::string lines = "{\"text\": \"" + text + "\"}\n{\"text\": \"" + text + "\"}\n";
    const std::string packed = gz ? gzip(lines) : zstd(lines);
    directory.write("half.jsonl" + suffix, packed.substr(0, packed.size() - 10));
    CHECK_THROWS_WITH_AS(read(directory, source("s", {"half.jsonl" + suffix})),
                         doctest::Contains("damaged compressed data after line 1; make the file anew"), Error);
  }
}

TEST_CASE("documents: a compressed file that was cut or changed anywhere gives its whole text or nothing") {
  test::TemporaryDirectory directory;
  const std::string text = "a text of a few words that are words of a text", packed = gzip(text), frame = zstd(text);
  directory.write("good.txt", "another text");
  const auto texts = [&](const std::string& name, const std::string& content) {
    directory.write(name, content);
    std::vector<std::string> read_texts;
    for (const Document& document : read(directory, source("s", {name, "good.txt"})).documents)
      if (document.path == name) read_texts.push_back(document.text);
    return read_texts;
  };
  for (size_t length = 0; length < packed.size(); ++length) CHECK(texts("a.gz", packed.substr(0, length)).empty());
  for (size_t length = 0; length < frame.size(); ++length) CHECK(texts("a.zst", frame.substr(0, length)).empty());
  int refused = 0;
  for (size_t at = 0; at < packed.size(); ++at) {
    std::string changed = packed;
    changed[at] = static_cast<char>(changed[at] ^ 0x15);
    const std::vector<std::string> got = texts("a.gz", changed);
    if (got.empty()) ++refused;
    CHECK((got.empty() || got == std::vector<std::string>{text}));  // gzip has a checksum, its header's date has none
  }
  CHECK(refused > static_cast<int>(packed.size()) / 2);
  for (size_t at = 0; at < frame.size(); ++at) {
    std::string changed = frame;
    changed[at] = static_cast<char>(changed[at] ^ 0x15);
    CHECK(texts("a.zst", changed).size() <= 1);  // without a checksum all one can ask is that it ends
  }
}

TEST_CASE("documents: under max_bytes the same documents are kept as with all of them in memory, in little memory") {
  test::TemporaryDirectory directory;
  const int64_t bytes = 200000, count = 200;
  std::ofstream file(directory.path() + "/all.jsonl.zst", std::ios::binary);
  for (int64_t i = 0; i < count; ++i)  // piece by piece, so that this process never needed memory for all of it
    file << zstd(nlohmann::json{{"text", noise(static_cast<uint64_t>(i), bytes + i % 7 * 20000)}}.dump() + "\n");
  file.close();
  SourceConfig capped = source("s", {"all.jsonl.zst"});
  capped.max_bytes = ByteCount{1000000};
  const int64_t before = peak_memory();
  const SourceDocuments s = read(directory, capped);
  CHECK(peak_memory() - before < 12000000);  // of 50 MB of text
  CHECK(s.bytes() <= 1000000);
  CHECK(s.bytes() > 1000000 - 2 * bytes);
  CHECK(s.left_out.at("beyond max_bytes") == count - static_cast<int64_t>(s.documents.size()));
  for (const Document& document : s.documents) {
    const uint64_t i = static_cast<uint64_t>(document.line - 1);
    CHECK(document.text == noise(i, bytes + static_cast<int64_t>(i) % 7 * 20000));
  }
  // by the rule: in the order of the ranks, whatever still fits
  const uint64_t key = derive_key(1, "cap");
  std::vector<std::pair<uint64_t, int64_t>> order;
  for (int64_t i = 0; i < count; ++i) {
    const std::string name = str("all.jsonl.zst:", i + 1);
    order.push_back({xxh3_64(name.data(), static_cast<int64_t>(name.size()), key), i});
  }
  std::sort(order.begin(), order.end());
  std::set<int64_t> expected, got;
  int64_t total = 0;
  for (const auto& [rank, i] : order) {
    const int64_t size = bytes + i % 7 * 20000;
    if (total + size > 1000000) continue;
    total += size;
    expected.insert(i + 1);
  }
  for (const Document& document : s.documents) got.insert(document.line);
  CHECK(got == expected);
}

TEST_CASE("documents: a text larger than max_bytes is read only as far as it may be used") {
  test::TemporaryDirectory directory;
  directory.write("a.txt", noise(5, 9000000));
  directory.write("b.txt", noise(6, 9000000));
  SourceConfig capped = source("s", {"*.txt"});
  capped.max_bytes = ByteCount{100000};
  const SourceDocuments s = read(directory, capped);
  REQUIRE(s.documents.size() == 1);
  CHECK(s.documents[0].text == noise(s.documents[0].path == "a.txt" ? 5 : 6, 9000000).substr(0, 100000));
  CHECK(s.files.at("a.txt").bytes == 9000000);
}

TEST_CASE("documents: the manifest lists a .jsonl file once for each set, with its number of documents") {
  test::TemporaryDirectory directory;
  std::string lines;
  for (uint64_t i = 0; i < 20; ++i) lines += nlohmann::json{{"text", noise(i, 500)}}.dump() + "\n";
  directory.write("a.jsonl.gz", gzip(lines));
  DataConfig config;
  config.sources = {source("s", {"a.jsonl.gz"})};
  config.held_out.fraction = 0.25;
  const Corpus corpus = prepare_corpus(config, directory.path(), 1, 257);
  const nlohmann::json files = nlohmann::json::parse(corpus.manifest)["files"];
  REQUIRE(files.size() == 2);
  CHECK(files[0]["set"] == "train");
  CHECK(files[0]["documents"].get<int>() + files[1]["documents"].get<int>() == 20);
  CHECK(files[0]["bytes_used"].get<int>() + files[1]["bytes_used"].get<int>() == 10000);
  CHECK(files[0]["sha256"] == files[1]["sha256"]);
}
