#include "engine/data/decontaminate.h"

#include <nlohmann/json.hpp>

#include "engine/data/overlap.h"
#include "tests/support/corpus.h"
#include "tests/support/temporary_directory.h"

namespace {

using namespace engine;
using namespace engine::data;
using test::prose;
using test::source;

// Numbered words, so that runs can be counted by hand.
std::string words(int from, int to) {
  std::string text;
  for (int i = from; i < to; ++i) text += str("w", i, " ");
  return text;
}

Document document(const std::string& path, const std::string& text) {
  return {.path = path, .text = text};
}

DocumentSets one_source(std::vector<Document> train, std::vector<Document> held_out, std::vector<Document> ood = {}) {
  DocumentSets sets;
  sets.sources.push_back({"s", {}, {}, {}, {}});
  sets.splits.push_back({std::move(train), std::move(held_out)});
  sets.ood.push_back({"o", std::move(ood), {}, {}, {}});
  return sets;
}

std::vector<std::string> paths(const std::vector<Document>& documents) {
  std::vector<std::string> list;
  for (const Document& d : documents) list.push_back(d.path);
  return list;
}

}  // namespace

TEST_CASE("decontaminate: a document is left out when more of its runs are evaluated than may be") {
  // 20 words are 8 runs of 13; of those of "half" 4 are in "held", of those of "ood" 1 in "other"
  const std::vector<Document> train = {document("half", words(0, 20)), document("none", words(100, 120)),
                                       document("one", words(200, 220)), document("short", words(4, 14)),
                                       document("twice", words(300, 320) + words(4, 17) + words(4, 17))};
  struct Case {
    double limit;
    std::vector<std::string> kept;
  };
  for (const Case& c :
       {Case{0, {"none", "short"}}, Case{0.03, {"none", "short"}}, Case{0.04, {"none", "short", "twice"}},
        Case{0.125, {"none", "one", "short", "twice"}}, Case{0.49, {"none", "one", "short", "twice"}},
        Case{0.5, {"half", "none", "one", "short", "twice"}}}) {
    CAPTURE(c.limit);
    DocumentSets sets =
        one_source(train, {document("held", words(4, 20))}, {document("other", "x " + words(207, 220) + "y")});
    HeldOutConfig config;
    config.max_overlap = c.limit;
    decontaminate(sets, config);
    CHECK(paths(sets.splits[0].train) == c.kept);
    CHECK(sets.splits[0].held_out.size() == 1);
    CHECK(sets.ood[0].documents.size() == 1);
    CHECK(sets.sources[0].left_out[kContaminated] == static_cast<int64_t>(train.size() - c.kept.size()));
    CHECK(sets.sources[0].left_out_names[kContaminated].size() == train.size() - c.kept.size());
  }
}

TEST_CASE("decontaminate: shorter runs find more, and a source that is nothing else is refused with the numbers") {
  DocumentSets sets =
      one_source({document("a", words(0, 10)), document("b", words(50, 60))}, {document("held", words(0, 6))});
  HeldOutConfig config;
  config.max_overlap = 0.02;
  decontaminate(sets, config);
  CHECK(sets.splits[0].train.size() == 2);
  config.ngram = 5;
  decontaminate(sets, config);
  CHECK(paths(sets.splits[0].train) == std::vector<std::string>{"b"});
  sets.splits[0].held_out[0].text = words(40, 70);
  CHECK_THROWS_WITH_AS(decontaminate(sets, config),
                       doctest::Contains("source \"s\" has no training document left: in each, more than 2 % of the "
                                         "runs of 5 words also stand in held-out or out-of-distribution text"),
                       Error);
}

TEST_CASE("decontaminate: what find_overlap finds in a corpus is gone from it, named and counted, in memory or not") {
  test::TemporaryDirectory directory;
  for (uint64_t i = 0; i < 60; ++i) directory.write(str("text/", 100 + i, ".txt"), prose(i, 20));
  for (uint64_t i : {3, 30}) {  // half of one that is held out, and half of one that is out of distribution
    const uint64_t of = i == 3 ? 59 : 1000;
    directory.write(str("text/", 100 + i, ".txt"), prose(i, 10) + prose(of, 10));
  }
  directory.write("copies/once.txt", prose(1000, 20).substr(0, 600));
  directory.write("copies/other.txt", prose(77, 20));
  directory.write("ood.txt", prose(1000, 20) + prose(1001, 20));
  DataConfig config;
  config.sources = {source("text", {"text"}), source("copies", {"copies"})};
  config.ood = {source("o", {"ood.txt"})};
  config.held_out.split = "tail";
  config.held_out.fraction = 0.1;
  const auto overlapping = [&](const DocumentSets& sets) {
    DocumentList train, evaluated;
    select_documents(sets, "train", train);
    for (const char* set : {"held_out", "ood"}) select_documents(sets, set, evaluated);
    std::vector<std::string> names;
    for (const DocumentOverlap& d : find_overlap(train, evaluated, 13).documents) names.push_back(d.document);
    std::sort(names.begin(), names.end());
    return names;
  };
  CHECK(overlapping(read_document_sets(config, directory.path(), 1)) ==
        std::vector<std::string>{"copies/once.txt", "text/103.txt", "text/130.txt"});
  config.held_out.max_overlap = 0.02;
  for (const int64_t most_held : {INT64_MAX, int64_t{0}}) {
    const DocumentSets sets = read_document_sets(config, directory.path(), 1, most_held);
    CHECK(overlapping(sets).empty());
    CHECK(sets.sources[0].left_out_names.at(kContaminated) == std::vector<std::string>{"text/103.txt", "text/130.txt"});
    CHECK(sets.sources[1].left_out_names.at(kContaminated) == std::vector<std::string>{"copies/once.txt"});
  }
  const Corpus corpus = prepare_corpus(config, directory.path(), 1, 257);
  const nlohmann::json manifest = nlohmann::json::parse(corpus.manifest);
  CHECK(manifest["held_out"]["max_overlap"] == 0.02);
  CHECK(manifest["sources"]["text"]["left_out"][kContaminated] == 2);
  CHECK(manifest["sources"]["text"]["left_out_names"][kContaminated][1] == "text/130.txt");
  CHECK(manifest["sources"]["text"]["held_out_13gram_overlap"] == 0);
  for (const nlohmann::json& file : manifest["files"]) CHECK(file["path"] != "text/103.txt");
  CHECK(corpus.summary(13)[0].ends_with(str("13-word overlap 0.0 %, left out: 2 ", kContaminated)));
  CHECK(corpus.summary(13)[2].ends_with("out of distribution"));
}
