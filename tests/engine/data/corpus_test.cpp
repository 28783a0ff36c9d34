#include "engine/data/corpus.h"

#include <set>

#include "engine/data/document_mask.h"
#include "engine/data/near_duplicates.h"
#include "engine/data/overlap.h"
#include "engine/data/source_files.h"
#include "engine/data/split.h"
#include "tests/support/corpus.h"
#include "tests/support/temporary_directory.h"

namespace {

using namespace engine;
using namespace engine::data;

using test::prose;
using test::source;

}  // namespace

TEST_CASE("source_files: globs stay within directories unless they say otherwise") {
  CHECK(glob_match("a/*.txt", "a/b.txt"));
  CHECK(!glob_match("a/*.txt", "a/b/c.txt"));
  CHECK(glob_match("a/**", "a/b/c.txt"));
  CHECK(glob_match("a/**/c.txt", "a/c.txt"));
  CHECK(glob_match("a/**/c.txt", "a/x/y/c.txt"));
  CHECK(!glob_match("a/**/c.txt", "b/c.txt"));
  CHECK(glob_match("f?[0-9].h", "fx7.h"));
  CHECK(!glob_match("f?[0-9].h", "fxy.h"));
}

TEST_CASE("source_files: finds regular files in order, without links and exclusions, and says what is missing") {
  test::TemporaryDirectory directory;
  directory.write("t/b.txt", "b");
  directory.write("t/a/z.txt", "z");
  directory.write("t/a/skip.txt", "s");
  std::filesystem::create_symlink(directory.path() + "/t", directory.path() + "/t/loop");
  const std::vector<std::string> files = find_files({"t/**"}, {"**/skip.txt"}, directory.path());
  CHECK(files == std::vector<std::string>{"t/a/z.txt", "t/b.txt"});
  CHECK(find_files({"t", "t/b.txt"}, {}, directory.path()).size() == 3);
  CHECK(find_files({"t", directory.path() + "/t/**"}, {}, directory.path()).size() == 3);
  CHECK(find_files({"t"}, {directory.path() + "/t/a/*"}, directory.path()) == std::vector<std::string>{"t/b.txt"});
  CHECK(find_files({"../b.txt"}, {}, directory.path() + "/t/a") == std::vector<std::string>{"../b.txt"});
  directory.write("[1]/x.txt", "a base directory is no pattern, and a name with brackets can be given as it is");
  CHECK(find_files({"*.txt"}, {}, directory.path() + "/[1]") == std::vector<std::string>{"x.txt"});
  CHECK(find_files({"[1]/x.txt"}, {}, directory.path()) == std::vector<std::string>{"[1]/x.txt"});
  CHECK_THROWS_WITH_AS(find_files({"none/*.txt"}, {}, directory.path()),
                       doctest::Contains("\"none/*.txt\" matches no file"), Error);
}

TEST_CASE("source_files: names that begin with a dot are found only where the pattern says so") {
  test::TemporaryDirectory directory;
  for (const char* name : {"a.txt", ".env", ".git/config", "sub/.cache/b.txt"}) directory.write(name, "text");
  CHECK(find_files({"."}, {}, directory.path()) == std::vector<std::string>{"a.txt"});
  CHECK(find_files({"**"}, {}, directory.path()) == std::vector<std::string>{"a.txt"});
  CHECK(find_files({".env"}, {}, directory.path()) == std::vector<std::string>{".env"});
  CHECK(find_files({".git"}, {}, directory.path()) == std::vector<std::string>{".git/config"});
  CHECK(find_files({"sub/.cache/*"}, {}, directory.path()) == std::vector<std::string>{"sub/.cache/b.txt"});
  CHECK(find_files({"*/.cache/*"}, {}, directory.path()) == std::vector<std::string>{"sub/.cache/b.txt"});
}

TEST_CASE("source_files: text is UTF-8 without NUL") {
  CHECK(is_text("plain \xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80"));
  for (const char* bad : {"\xff", "\xc3", "\xc0\x80", "\xe0\x80\x80", "\xed\xa0\x80", "\xf5\x80\x80\x80", "a\x80"})
    CHECK(!is_text(bad));
  CHECK(!is_text(std::string_view("a\0b", 3)));
}

TEST_CASE("documents: stripping, filters, duplicates and caps are applied and counted") {
  CHECK(strip_leading_comment("/* licence\n */\n// more\n\nint x; // kept\n") == "int x; // kept\n");
  CHECK(strip_leading_comment("#!/bin/sh\n# licence\n\necho # kept\n") == "echo # kept\n");
  CHECK(strip_leading_comment("#include <x>\n") == "#include <x>\n");
  test::TemporaryDirectory directory;
  directory.write("a.txt", prose(1, 6));
  directory.write("b.txt", prose(1, 6));  // the same text
  directory.write("c.txt", std::string("\xff\xfe", 2));
  directory.write("d.txt", "1234567890 table");
  directory.write("e.txt", prose(2, 6));
  FilterConfig filters;
  filters.max_digit_fraction = 0.8;
  filters.min_bytes = ByteCount{20};
  const auto sources = read_sources({source("s", {"*.txt"})}, filters, directory.path(), 1);
  REQUIRE(sources[0].documents.size() == 2);
  CHECK(sources[0].documents[0].path.ends_with("a.txt"));
  CHECK(sources[0].left_out.at("the same text as another document") == 1);
  CHECK(sources[0].left_out.at("not UTF-8 text") == 1);
  CHECK(sources[0].left_out.at("shorter than filters.min_bytes") == 1);
  SourceConfig capped = source("s", {"*.txt"});
  capped.max_bytes = ByteCount{static_cast<int64_t>(sources[0].documents[0].text.size())};
  CHECK(read_sources({capped}, filters, directory.path(), 1)[0].documents.size() == 1);
  directory.write("euro/e.txt", "ab\xe2\x82\xac and so on");
  SourceConfig one = source("one", {"euro"});
  for (auto [limit, text] : {std::pair{5, "ab\xe2\x82\xac"}, std::pair{4, "ab"}, std::pair{2, "ab"}}) {
    one.max_bytes = ByteCount{limit};  // smaller than the only document: cut, not inside a character
    CHECK(read_sources({one}, {}, directory.path(), 1)[0].documents[0].text == text);
  }
  filters.min_bytes = ByteCount{1000000};
  CHECK_THROWS_WITH_AS(read_sources({source("s", {"*.txt"})}, filters, directory.path(), 1),
                       doctest::Contains("source \"s\" has no document left"), Error);
}

TEST_CASE("near_duplicates: a lightly edited copy joins its original, other texts stay apart") {
  const std::string original = prose(1, 45), other = prose(2, 45);
  std::string edited = original;
  edited.replace(edited.find(' ') + 1, 2, "zz");
  const Document documents[] = {
      {.path = "o", .text = original}, {.path = "x", .text = other}, {.path = "e", .text = edited}};
  const auto groups = near_duplicate_groups({&documents[0], &documents[1], &documents[2]});
  CHECK(groups == std::vector<int64_t>{0, 1, 0});
  CHECK(ngram_overlap({&documents[2]}, {&documents[0]}, 13) > 0.9);
  CHECK(ngram_overlap({&documents[1]}, {&documents[0]}, 13) == 0);
}

TEST_CASE("split: near-duplicates are never divided between training and held-out text") {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    SourceDocuments docs{"s", {}, {}, {}, {}};
    for (uint64_t i = 0; i < 20; ++i) {
      docs.documents.push_back({.path = "doc" + std::to_string(i), .text = prose(i, 22)});
      docs.documents.push_back({.path = "twin" + std::to_string(i), .text = prose(i, 22) + "end"});
    }
    HeldOutConfig config;
    config.fraction = 0.2;
    const Split split = split_sources({docs}, config, seed)[0];
    CHECK(split.train.size() + split.held_out.size() == 40);
    CHECK(split.held_out.size() >= 4);
    CHECK(split.held_out.size() <= 12);
    std::set<std::string> held;
    for (const Document& d : split.held_out) held.insert(d.path.substr(d.path.find_first_of("0123456789")));
    for (const Document& d : split.train) CHECK(!held.contains(d.path.substr(d.path.find_first_of("0123456789"))));
  }
}

TEST_CASE("split: of a few large documents the smallest is held out, though it is more than the fraction") {
  SourceDocuments docs{"s", {}, {}, {}, {}};
  for (uint64_t i = 0; i < 4; ++i)
    docs.documents.push_back({.path = "doc" + std::to_string(i), .text = prose(i, i == 2 ? 9 : 12)});
  const Split split = split_sources({docs}, {}, 1)[0];
  REQUIRE(split.held_out.size() == 1);
  CHECK(split.held_out[0].path == "doc2");
  CHECK(split.train.size() == 3);
}

TEST_CASE("split: the tail of a source, and a source of one document says what to do") {
  SourceDocuments one{"s", {{.path = "a", .text = "0123456789"}}, {}, {}, {}};
  HeldOutConfig config;
  config.fraction = 0.2;
  CHECK_THROWS_WITH_AS(split_sources({one}, config, 1), doctest::Contains("set data.held_out.split to \"tail\""),
                       Error);
  config.split = "tail";
  const Split split = split_sources({one}, config, 1)[0];
  CHECK(split.train[0].text == "01234567");
  CHECK(split.held_out[0].text == "89");
  CHECK(split.held_out[0].text_begin == 8);
}

TEST_CASE("corpus: tokens, end of document between documents, and a manifest of every file") {
  test::TemporaryDirectory directory;
  directory.write("a.txt", "abc");
  directory.write("b.txt", "de");
  directory.write("o.txt", "other");
  DataConfig config;
  config.sources = {source("s", {"a.txt", "b.txt"})};
  config.ood = {source("o", {"o.txt"})};
  config.held_out.fraction = 0;
  const Corpus corpus = prepare_corpus(config, directory.path(), 1, 257);
  CHECK(corpus.sources[0].train.tokens == std::vector<uint16_t>{'a', 'b', 'c', 256, 'd', 'e'});
  CHECK(prepare_corpus(config, directory.path(), 1, 256).sources[0].train.tokens.size() == 5);
  CHECK(corpus.ood[0].num_bytes == 5);
  CHECK(corpus.manifest.find(to_hex(sha256("abc", 3))) != std::string::npos);
  CHECK(corpus.manifest.find("o.txt") != std::string::npos);
  config.sources.clear();
  CHECK_THROWS_AS(prepare_corpus(config, directory.path(), 1, 257), Error);
}

TEST_CASE("corpus: what is held out does not depend on where the config's directory is or how it is written") {
  test::TemporaryDirectory here, there;
  DataConfig config;
  config.sources = {source("s", {"text"})};
  config.sources[0].max_bytes = ByteCount{30000};
  config.held_out.fraction = 0.2;
  for (uint64_t i = 0; i < 40; ++i) {
    here.write(str("text/", i), prose(i, 22));
    there.write(str("deeper/text/", i), prose(i, 22));
  }
  const Corpus first = prepare_corpus(config, here.path(), 1, 257);
  const std::string relative = std::filesystem::relative(here.path()).string();
  for (const std::string& base : {relative, here.path() + "/text/..", there.path() + "/deeper"}) {
    const Corpus again = prepare_corpus(config, base, 1, 257);
    CHECK(again.sources[0].train.tokens == first.sources[0].train.tokens);
    CHECK(again.sources[0].held_out.tokens == first.sources[0].held_out.tokens);
    CHECK(again.manifest == first.manifest);
  }
}

TEST_CASE("corpus: a text of training is not out of distribution") {
  test::TemporaryDirectory directory;
  directory.write("a.txt", "in training");
  directory.write("ood/b.txt", "in training");
  directory.write("ood/c.txt", "elsewhere");
  DataConfig config;
  config.sources = {source("s", {"a.txt"})};
  config.ood = {source("o", {"ood"})};
  config.held_out.fraction = 0;
  CHECK(prepare_corpus(config, directory.path(), 1, 257).ood[0].num_bytes == 9);
}

TEST_CASE("document_mask: positions and attention restart after the end of a document") {
  const int32_t tokens[] = {7, 8, 256, 9, 256, 256, 5};
  int32_t positions[7], starts[7];
  document_mask(tokens, 7, true, positions, starts);
  CHECK(std::vector<int32_t>(positions, positions + 7) == std::vector<int32_t>{0, 1, 2, 0, 1, 0, 0});
  CHECK(std::vector<int32_t>(starts, starts + 7) == std::vector<int32_t>{0, 0, 0, 3, 3, 5, 6});
  document_mask(tokens, 7, false, positions, starts);
  CHECK(positions[6] == 6);
  CHECK(starts[6] == 0);
}
