// Text of which memory holds only a part gives the same corpus as text that lies in memory.
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "engine/data/corpus.h"
#include "engine/data/corpus_cache.h"
#include "engine/data/eval_windows.h"
#include "engine/data/overlap.h"
#include "engine/data/sampler.h"
#include "tests/support/corpus.h"
#include "tests/support/temporary_directory.h"

namespace {

using namespace engine;
using namespace engine::data;
using test::check_same;
using test::prose;
using test::source;

struct Setup {
  test::TemporaryDirectory directory;
  DataConfig config;
  Setup() {
    std::string lines;
    for (uint64_t i = 0; i < 40; ++i)
      lines += nlohmann::json({{"text", prose(i, 3 + static_cast<int64_t>(i) / 5)}}).dump() + "\n";
    directory.write("lines.jsonl", lines);
    for (uint64_t i = 0; i < 30; ++i)
      directory.write(str("files/", i, ".txt"), "// a comment\n" + prose(100 + i % 25, 14) + (i % 2 == 0 ? "end" : ""));
    directory.write("large.txt", "# licence\n" + prose(999, 45000));
    directory.write("other.txt", prose(7, 75));
    config.sources = {source("lines", {"lines.jsonl"}), source("files", {"files"}), source("large", {"large.txt"})};
    config.sources[1].strip = config.sources[2].strip = "leading-comment";
    config.ood = {source("other", {"other.txt"})};
    config.held_out.fraction = 0.15;
    config.held_out.split = "tail";
    config.filters.containing = {"never there"};
    config.filters.max_digit_fraction = 0.5;
    config.filters.control_characters = "leave_out";
  }
  Corpus prepare(int64_t most_held) const { return prepare_corpus(config, directory.path(), 3, 257, most_held); }
};

}  // namespace

TEST_CASE("large_text: the same corpus, however little memory may hold") {
  Setup setup;
  for (const char* split : {"tail", "groups"}) {
    setup.config.held_out.split = split;
    if (std::string(split) == "groups") setup.config.sources.pop_back();  // the source of one document
    const Corpus whole = setup.prepare(INT64_MAX);
    CHECK(whole.sources[0].held_out.num_bytes > 0);
    for (int64_t most : {int64_t{0}, int64_t{400}, int64_t{9000}, int64_t{4000000}}) {
      INFO(split, " ", most);
      check_same(setup.prepare(most), whole);
    }
  }
  setup.config.sources[1].max_bytes = ByteCount{6000};  // under a cap, too
  check_same(setup.prepare(500), setup.prepare(INT64_MAX));
}

TEST_CASE("large_text: a cap cuts one large document at the same character") {
  Setup setup;
  setup.config.sources.erase(setup.config.sources.begin(), setup.config.sources.begin() + 2);
  for (int64_t cap : {100000, 100001, 100002, 100003, 2000000}) {
    setup.config.sources[0].max_bytes = ByteCount{cap};
    const Corpus whole = setup.prepare(INT64_MAX);
    check_same(setup.prepare(1000), whole);
    const int64_t used = whole.sources[0].train.num_bytes + whole.sources[0].held_out.num_bytes;
    CHECK(used <= cap);
    CHECK(used > cap - 4);
  }
}

TEST_CASE("large_text: what is wrong with a large document is found in any piece of it") {
  const auto left_out = [](const std::string& text, int64_t most_held) {
    const test::TemporaryDirectory directory;
    directory.write("a.txt", text);
    directory.write("b.txt", "something that stays");
    FilterConfig filters;
    filters.control_characters = "leave_out";
    filters.containing = {"needle in it"};
    return read_sources({source("s", {"*.txt"})}, filters, directory.path(), 1, most_held)[0].left_out;
  };
  const std::string good = prose(5, 38000);
  CHECK(left_out(good, 1000).empty());
  for (size_t at : {size_t{0}, size_t{1} << 20, (size_t{1} << 20) - 5, good.size()}) {
    size_t place = at;
    while (place < good.size() && (static_cast<unsigned char>(good[place]) & 0xC0) == 0x80) ++place;
    for (const char* wrong : {"\xff", "needle in it", "\x01", "\xe2\x82"}) {
      std::string text = good;
      text.insert(place, wrong);
      INFO(at, " ", wrong);
      CHECK(left_out(text, 1000) == left_out(text, INT64_MAX));
      CHECK(left_out(text, 1000).size() == 1);
    }
  }
}

TEST_CASE("large_text: overlap and what is unlike its source are found in text that is kept in a file") {
  Setup setup;
  const std::string noise = prose(100, 14) + std::string(3000, '#');
  setup.directory.write("files/noise.txt", noise);
  setup.directory.write("other.txt", prose(999, 22000) + "\n" + prose(12, 5));
  setup.config.filters.unlike_source = "leave_out";
  const auto sets = [&](int64_t most_held) {
    return read_document_sets(setup.config, setup.directory.path(), 3, most_held);
  };
  const DocumentSets whole = sets(INT64_MAX), spilled = sets(0);
  REQUIRE(spilled.ood[0].documents[0].spill);
  CHECK(whole.sources[1].left_out.at("unlike its source (filters.unlike_source)") == 1);
  CHECK(spilled.sources[1].left_out == whole.sources[1].left_out);
  for (const auto& [first, second] : {std::pair{"ood", "train"}, {"train", "ood"}, {"train:large", "ood:other"}}) {
    const auto overlap_of = [&](const DocumentSets& of) {
      DocumentList a, b;
      CHECK((select_documents(of, first, a) && select_documents(of, second, b)));
      return find_overlap(a, b, 13);
    };
    const Overlap expected = overlap_of(whole), got = overlap_of(spilled);
    CHECK(expected.shared > 0);
    CHECK(got.runs == expected.runs);
    CHECK(got.shared == expected.shared);
    REQUIRE(got.documents.size() == expected.documents.size());
    for (size_t d = 0; d < got.documents.size(); ++d) {
      CHECK(got.documents[d].document == expected.documents[d].document);
      CHECK(got.documents[d].shared == expected.documents[d].shared);
      CHECK(got.documents[d].most_like == expected.documents[d].most_like);
    }
  }
}

TEST_CASE("large_text: a token list in a file reads as one in memory") {
  auto file = std::make_shared<SpillFile>();
  std::vector<uint16_t> expected;
  TokenList list;
  for (int64_t size : {5, 0, 1, 5000, 0, 0, 7}) {
    const std::string text = prose(static_cast<uint64_t>(size + 1), size).substr(0, static_cast<size_t>(size));
    file->append("between");
    const bool ends = !expected.empty();
    if (ends) expected.push_back(256);
    for (char c : text) expected.push_back(static_cast<unsigned char>(c));
    list.append_text(file, file->append(text), size, ends);
  }
  REQUIRE(list.size() == expected.size());
  CHECK((list == expected));
  for (int64_t first = 0; first < static_cast<int64_t>(expected.size()); first += first < 30 || first > 5000 ? 1 : 97) {
    for (int64_t count : {int64_t{0}, int64_t{1}, int64_t{3}, static_cast<int64_t>(expected.size()) - first}) {
      if (first + count > static_cast<int64_t>(expected.size())) continue;
      const std::vector<uint16_t> part(expected.begin() + first, expected.begin() + first + count);
      CHECK(list.slice(first, count) == part);
    }
  }
  CHECK_THROWS(list.slice(0, static_cast<int64_t>(expected.size()) + 1));
}

TEST_CASE("large_text: tokens, samples and windows beyond 4 GiB") {
  const test::TemporaryDirectory directory;
  const std::string text = prose(4, 400), path = directory.write("sparse", "");
  const int64_t hole = int64_t{5} << 30, size = static_cast<int64_t>(text.size());
  std::filesystem::resize_file(path, static_cast<uintmax_t>(hole));
  std::ofstream(path, std::ios::app) << text;
  const auto file = std::make_shared<SpillFile>(path);
  Corpus corpus;
  SourceSplit& split = corpus.sources.emplace_back();
  for (int64_t tokens = 0; tokens <= hole; tokens += size) split.train.tokens.append_text(file, hole, size, false);
  const TokenList& tokens = split.train.tokens;
  const auto expected = [&](int64_t at) { return static_cast<unsigned char>(text[static_cast<size_t>(at % size)]); };
  const int64_t S = 64, count = static_cast<int64_t>(tokens.size());
  REQUIRE(count > hole);
  for (int64_t first : {(int64_t{1} << 31) - 3, (int64_t{1} << 32) - 3, hole - 100, count - 7}) {
    const std::vector<uint16_t> part = tokens.slice(first, 7);
    for (int64_t i = 0; i < 7; ++i) CHECK(part[static_cast<size_t>(i)] == expected(first + i));
  }
  const Sampler sampler(corpus, S, 3);
  std::vector<int32_t> sample(static_cast<size_t>(S + 1));
  int64_t far = 0;
  for (int64_t n = 0; n < 5 * count / S; n += count / S / 10 + 1) {  // of five epochs
    const int64_t begin = sampler.locate(n).begin;
    sampler.read(n, sample.data());
    for (int64_t i = 0; i <= S; ++i) CHECK(sample[static_cast<size_t>(i)] == expected(begin + i));
    far += begin > int64_t{1} << 32 ? 1 : 0;
  }
  CHECK(far > 0);
  const EvalWindows windows(split.train, S);
  std::vector<int32_t> inputs(static_cast<size_t>(S)), targets(inputs.size());
  const int64_t last = windows.count() - 1;
  windows.read(last, inputs.data(), targets.data());
  CHECK(last == (count - 2) / S);
  CHECK(inputs[0] == expected(last * S));
  CHECK(targets[0] == expected(last * S + 1));
}

TEST_CASE("large_text: samples and windows come from a file as from memory, also through the cache") {
  Setup setup;
  const Corpus whole = setup.prepare(INT64_MAX), spilled = setup.prepare(1000);
  setup.config.cache_dir = setup.directory.path() + "/cache";
  setup.prepare(1000);
  const Corpus cached = setup.prepare(1000);  // its tokens stay in the cache file
  check_same(cached, whole);
  for (const Corpus* corpus : {&spilled, &cached}) {
    for (int64_t S : {7, 64, 1500}) {
      const Sampler a(whole, S, 3), b(*corpus, S, 3);
      std::vector<int32_t> x(static_cast<size_t>(S + 1)), y(x.size());
      for (int64_t n = 0; n < 60; ++n) {
        a.read(n * 7, x.data()), b.read(n * 7, y.data());
        CHECK(x == y);
      }
      const TokenSet& set = corpus->sources[0].held_out;
      const EvalWindows windows(set, S);
      const std::vector<uint16_t> tokens = set.tokens.slice(0, static_cast<int64_t>(set.tokens.size()));
      std::vector<int32_t> inputs(static_cast<size_t>(S)), targets(inputs.size());
      int64_t predicted = 0;
      for (int64_t w = 0; w < windows.count(); ++w) {
        std::fill(inputs.begin(), inputs.end(), 12345), std::fill(targets.begin(), targets.end(), 12345);
        predicted += windows.read(w, inputs.data(), targets.data());
        for (int64_t s = 0; s < S; ++s) {
          const size_t at = static_cast<size_t>(w * S + s);
          const bool inside = at + 1 < tokens.size();
          CHECK(inputs[static_cast<size_t>(s)] == (inside ? tokens[at] : 0));
          CHECK(targets[static_cast<size_t>(s)] == (inside ? tokens[at + 1] : -1));
        }
      }
      CHECK(predicted == static_cast<int64_t>(tokens.size()) - 1);
    }
  }
}
