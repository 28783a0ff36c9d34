#include "engine/data/suspects.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <tuple>
#include <unordered_map>
#include <utility>

#include "engine/core/error.h"
#include "engine/core/thread_pool.h"
#include "engine/data/overlap.h"
#include "engine/data/text_checks.h"
#include "engine/data/unlike_source.h"
#include "engine/data/word_runs.h"

namespace engine::data {
namespace {

std::string decimal(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.2f", value);
  return text;
}

std::string quoted(std::string_view text) {
  return str('"', print_text(text, 60), '"');
}

// What one document shows by itself.
std::vector<Suspect> check_document(const std::string& source, const Document& document) {
  ENSURE(!document.spill, document.name(), " is not in memory");
  std::vector<Suspect> found;
  const auto add = [&](const char* kind, const std::string& detail) {
    found.push_back({source, document.name(), kind, detail, {}});
  };
  if (const ControlCharacters c = find_control_characters(document.text); c.count > 0) {
    char code[16];
    std::snprintf(code, sizeof(code), "U+%04X", c.first_code);
    add("control characters", str(c.count, " control or direction characters, the first ", code, " at byte ",
                                  c.first_at + document.text_begin));
  }
  if (const RepeatedLine line = most_repeated_line(document.text); line.share > kSuspectLineShare) {
    add("repeated line", str(quoted(line.line), " stands in it ", line.count, " times and is ",
                             std::lround(line.share * 100), " % of it"));
  }
  if (static_cast<int64_t>(document.text.size()) >= kSuspectBytes) {
    const double ratio = compression_ratio(document.text);
    if (ratio < kSuspectCompression[0] || ratio > kSuspectCompression[1]) {
      add("compression", str("zlib makes it ", decimal(ratio), " times smaller; text is between ",
                             decimal(kSuspectCompression[0]), " and ", decimal(kSuspectCompression[1])));
    }
  }
  return found;
}

void check_against_source(const std::string& source, const DocumentList& documents, std::vector<Suspect>& suspects) {
  for (const UnlikeDocument& unlike : find_unlike(documents)) {
    suspects.push_back(
        {source,
         documents[unlike.document]->name(),
         "unlike its source",
         str(decimal(unlike.bits), " bits per byte under a 3-gram model of other documents of the source, ",
             "whose median is ", decimal(unlike.median)),
         {}});
  }
}

// --- lines in many documents ---------------------------------------------------------------------------------------

struct Line {
  std::string_view text, above, below;  // the nearest lines that are not blank; empty at the ends of the document
  int64_t number;
};

template <class Use>
void for_each_line(std::string_view text, const Use& use) {
  Line line{{}, {}, {}, 0}, next{{}, {}, {}, 0};
  int64_t number = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    next.text = trimmed(text.substr(begin, end - begin));
    next.number = ++number;
    begin = end + 1;
    if (next.text.empty()) continue;
    next.above = line.text;
    line.below = next.text;
    if (!line.text.empty()) use(line);
    line = next;
  }
  line.below = {};
  if (!line.text.empty()) use(line);
}

struct LineRecord {
  std::string_view text, above, below;  // of the first document with it
  int64_t documents = 0, other_above = 0, other_below = 0, occurrences = 0;
  int64_t own_pairs = 0;  // pairs of words in it that stand nowhere else in the source
  size_t last_document = SIZE_MAX;

  // Each neighbour is another text nearly every time or the end of the document, and one of them is a text.
  bool stands_alone() const {
    const auto differs = [this](int64_t others) { return others >= 0.8 * static_cast<double>(documents - 1); };
    return (differs(other_above) || (above.empty() && other_above == 0)) &&
           (differs(other_below) || (below.empty() && other_below == 0)) && (other_above > 0 || other_below > 0);
  }
};

// A line of the source's own language, such as an #include, is made of pairs of words that stand elsewhere, too.
void count_own_pairs(const DocumentList& documents, std::vector<LineRecord>& lines) {
  std::unordered_map<uint64_t, int64_t> counts;
  for (const LineRecord& line : lines) {
    for (uint64_t pair : word_ngrams(line.text, 2)) counts[pair] = 0;
  }
  for (const Document* document : documents) {
    for (uint64_t pair : word_ngrams(document->text, 2)) {
      if (const auto found = counts.find(pair); found != counts.end()) ++found->second;
    }
  }
  for (LineRecord& line : lines) {
    const std::vector<uint64_t> pairs = word_ngrams(line.text, 2);
    for (uint64_t pair : pairs)
      line.own_pairs += counts[pair] == line.occurrences * std::count(pairs.begin(), pairs.end(), pair) ? 1 : 0;
  }
}

void check_lines(const std::string& source, const DocumentList& documents, std::vector<Suspect>& suspects) {
  constexpr size_t kMost = 10;
  std::unordered_map<std::string_view, LineRecord> lines;
  for (size_t d = 0; d < documents.size(); ++d) {
    for_each_line(documents[d]->text, [&](const Line& line) {
      if (static_cast<int64_t>(line.text.size()) < kSuspectLineBytes) return;
      LineRecord& record = lines[line.text];
      ++record.occurrences;
      if (record.last_document == d) return;
      if (record.documents++ == 0) record.text = line.text, record.above = line.above, record.below = line.below;
      record.other_above += line.above != record.above ? 1 : 0;
      record.other_below += line.below != record.below ? 1 : 0;
      record.last_document = d;
    });
  }
  const int64_t least = std::max<int64_t>(
      3, static_cast<int64_t>(std::ceil(kSuspectLineDocuments * static_cast<double>(documents.size()))));
  std::vector<LineRecord> found;
  for (const auto& [text, record] : lines) {
    if (record.documents >= least && record.stands_alone()) found.push_back(record);
  }
  count_own_pairs(documents, found);
  std::erase_if(found, [](const LineRecord& record) { return record.own_pairs < kSuspectLinePairs; });
  std::sort(found.begin(), found.end(), [](const LineRecord& a, const LineRecord& b) {
    return std::tuple(a.own_pairs, a.documents, a.text) > std::tuple(b.own_pairs, b.documents, b.text);
  });
  if (found.size() > kMost) found.resize(kMost);
  for (const LineRecord& record : found) {
    Suspect suspect{source, "", "line in many documents", "", {}};
    for (const Document* document : documents) {
      bool is_first = true;
      for_each_line(document->text, [&](const Line& line) {
        if (line.text != record.text || !is_first) return;
        is_first = false;
        suspect.places.push_back(document->line > 0 ? document->name() : str(document->path, ":", line.number));
      });
      if (!is_first && suspect.document.empty()) suspect.document = document->name();
    }
    suspect.detail = str(quoted(record.text), " stands in ", record.documents, " of ", documents.size(),
                         " documents, each time between other lines");
    suspects.push_back(std::move(suspect));
  }
}

// Everything about one source by itself.
std::vector<Suspect> check_source(const SourceDocuments& source, const DocumentList& documents) {
  std::vector<Suspect> suspects;
  for (const auto& [name, why] : source.no_text) suspects.push_back({source.name, name, "binary", why, {}});
  std::vector<std::vector<Suspect>> by_document(documents.size());
  parallel_for(static_cast<int64_t>(documents.size()), [&](int64_t d) {
    by_document[static_cast<size_t>(d)] = check_document(source.name, *documents[static_cast<size_t>(d)]);
  });
  for (std::vector<Suspect>& found : by_document) {
    for (Suspect& suspect : found) suspects.push_back(std::move(suspect));
  }
  check_against_source(source.name, documents, suspects);
  check_lines(source.name, documents, suspects);
  return suspects;
}

void check_overlap(const DocumentSets& sets, const std::string& set, const std::string& source, int64_t ngram,
                   std::vector<Suspect>& suspects) {
  DocumentList evaluated, trained;
  select_documents(sets, set + ":" + source, evaluated);
  select_documents(sets, "train", trained);
  for (const DocumentOverlap& overlap : find_overlap(evaluated, trained, ngram).documents) {
    if (overlap.share() < kSuspectOverlap) break;
    suspects.push_back({source,
                        overlap.document,
                        "near-duplicate of training",
                        str("in ", set, ", but ", overlap.shared, " of its ", overlap.runs, " runs of ", ngram,
                            " words also stand in training, the most in ", overlap.most_like),
                        {}});
  }
}

}  // namespace

std::vector<Suspect> find_suspects(const DocumentSets& sets, int64_t ngram) {
  std::vector<Suspect> all;
  const auto add = [&](std::vector<Suspect> found) {
    for (Suspect& suspect : found) all.push_back(std::move(suspect));
  };
  for (size_t s = 0; s < sets.sources.size(); ++s) {
    DocumentList documents = pointers_to(sets.splits[s].train);
    for (const Document& document : sets.splits[s].held_out) documents.push_back(&document);
    std::sort(documents.begin(), documents.end(), [](const Document* a, const Document* b) { return *a < *b; });
    add(check_source(sets.sources[s], documents));
    check_overlap(sets, "held_out", sets.sources[s].name, ngram, all);
  }
  for (const SourceDocuments& source : sets.ood) {
    add(check_source(source, pointers_to(source.documents)));
    check_overlap(sets, "ood", source.name, ngram, all);
  }
  return all;
}

}  // namespace engine::data
