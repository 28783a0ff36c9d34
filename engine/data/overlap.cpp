#include "engine/data/overlap.h"

#include <algorithm>
#include <map>
#include <utility>

#include "engine/core/thread_pool.h"
#include "engine/data/near_duplicates.h"

namespace engine::data {
namespace {

constexpr int kRunWords = 13;

std::vector<uint64_t> distinct_runs(const Document& document) {
  std::vector<uint64_t> runs = word_ngrams(document.text, kRunWords);
  std::sort(runs.begin(), runs.end());
  runs.erase(std::unique(runs.begin(), runs.end()), runs.end());
  return runs;
}

void append(DocumentList& list, const std::vector<Document>& documents) {
  for (const Document& document : documents) list.push_back(&document);
}

}  // namespace

Overlap find_overlap(const DocumentList& first, const DocumentList& second) {
  std::vector<std::pair<uint64_t, size_t>> theirs;  // run, document that has it
  for (size_t d = 0; d < second.size(); ++d) {
    for (uint64_t run : distinct_runs(*second[d])) theirs.push_back({run, d});
  }
  std::sort(theirs.begin(), theirs.end());
  std::vector<std::vector<uint64_t>> ours(first.size());
  std::vector<DocumentOverlap> documents(first.size());
  parallel_for(static_cast<int64_t>(first.size()), [&](int64_t i) {
    const size_t at = static_cast<size_t>(i);
    ours[at] = distinct_runs(*first[at]);
    std::map<size_t, int64_t> by_document;
    int64_t shared = 0;
    for (uint64_t run : ours[at]) {
      auto found = std::lower_bound(theirs.begin(), theirs.end(), std::pair(run, size_t{0}));
      shared += found != theirs.end() && found->first == run ? 1 : 0;
      for (; found != theirs.end() && found->first == run; ++found) ++by_document[found->second];
    }
    documents[at] = {first[at]->name(), static_cast<int64_t>(ours[at].size()), shared, ""};
    int64_t most = 0;
    for (const auto& [d, count] : by_document) {
      if (count > most) most = count, documents[at].most_like = second[d]->name();
    }
  });
  Overlap overlap;
  std::vector<uint64_t> all;
  for (const std::vector<uint64_t>& runs : ours) all.insert(all.end(), runs.begin(), runs.end());
  std::sort(all.begin(), all.end());
  all.erase(std::unique(all.begin(), all.end()), all.end());
  overlap.runs = static_cast<int64_t>(all.size());
  for (uint64_t run : all) {
    const auto found = std::lower_bound(theirs.begin(), theirs.end(), std::pair(run, size_t{0}));
    overlap.shared += found != theirs.end() && found->first == run ? 1 : 0;
  }
  std::erase_if(documents, [](const DocumentOverlap& d) { return d.shared == 0; });
  std::stable_sort(documents.begin(), documents.end(),
                   [](const DocumentOverlap& a, const DocumentOverlap& b) { return a.share() > b.share(); });
  overlap.documents = std::move(documents);
  return overlap;
}

bool select_documents(const DocumentSets& sets, const std::string& name, DocumentList& documents) {
  const size_t colon = name.find(':');
  const std::string kind = name.substr(0, colon), only = colon == std::string::npos ? "" : name.substr(colon + 1);
  bool found = false;
  const auto wanted = [&](const SourceDocuments& source) {
    const bool is_wanted = colon == std::string::npos || source.name == only;
    found = found || is_wanted;
    return is_wanted;
  };
  for (size_t s = 0; s < sets.sources.size() && kind != "ood"; ++s) {
    if ((kind != "train" && kind != "held_out") || !wanted(sets.sources[s])) continue;
    append(documents, kind == "train" ? sets.splits[s].train : sets.splits[s].held_out);
  }
  for (const SourceDocuments& source : sets.ood) {
    if (kind == "ood" && wanted(source)) append(documents, source.documents);
  }
  return found;
}

std::vector<std::string> set_names(const DocumentSets& sets) {
  std::vector<std::string> names = {"train", "held_out"};
  for (const SourceDocuments& source : sets.sources) {
    names.push_back("train:" + source.name);
    names.push_back("held_out:" + source.name);
  }
  if (!sets.ood.empty()) names.push_back("ood");
  for (const SourceDocuments& source : sets.ood) names.push_back("ood:" + source.name);
  return names;
}

}  // namespace engine::data
