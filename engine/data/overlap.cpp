#include "engine/data/overlap.h"

#include <algorithm>
#include <atomic>
#include <map>
#include <mutex>
#include <utility>

#include "engine/core/thread_pool.h"
#include "engine/data/word_runs.h"

namespace engine::data {
namespace {

void append(DocumentList& list, const std::vector<Document>& documents) {
  for (const Document& document : documents) list.push_back(&document);
}

// The runs of the first set and who has them; what stands in the second is marked document by document.
class RunIndex {
 public:
  RunIndex(const DocumentList& documents, int64_t length) : length_(length), documents_(documents.size()) {
    for (size_t d = 0; d < documents.size(); ++d) {
      const std::vector<uint64_t> runs = distinct_runs({documents[d]}, length);
      documents_[d].runs = static_cast<int64_t>(runs.size());
      for (uint64_t run : runs) entries_.push_back({run, d});
    }
    std::sort(entries_.begin(), entries_.end());
    shared_.resize(entries_.size());
  }

  // Document number `index` of the second set. Of documents that have as many runs of one the first is the most like
  // it.
  void mark(const Document& document, size_t index) {
    std::vector<size_t> found;
    for_each_run(document, length_, [&](uint64_t run) {
      const size_t at = find(run);
      if (at < entries_.size()) found.push_back(at);
    });
    std::sort(found.begin(), found.end());
    found.erase(std::unique(found.begin(), found.end()), found.end());
    const std::lock_guard<std::mutex> lock(mutex_);
    std::map<size_t, int64_t> counts;
    for (size_t first : found) {
      for (size_t at = first; at < entries_.size() && entries_[at].run == entries_[first].run; ++at) {
        shared_[at] = true;
        ++counts[entries_[at].document];
      }
    }
    for (const auto& [d, count] : counts) {
      Match& match = documents_[d];
      if (count > match.most || (count == match.most && index < match.most_like))
        match.most = count, match.most_like = index;
    }
  }

  Overlap overlap(const DocumentList& first, const DocumentList& second) const {
    Overlap overlap;
    std::vector<int64_t> shared(documents_.size());
    for (size_t at = 0; at < entries_.size(); ++at) {
      shared[entries_[at].document] += shared_[at] ? 1 : 0;
      if (at > 0 && entries_[at - 1].run == entries_[at].run) continue;
      ++overlap.runs;
      overlap.shared += shared_[at] ? 1 : 0;
    }
    for (size_t d = 0; d < documents_.size(); ++d) {
      if (shared[d] == 0) continue;
      overlap.documents.push_back(
          {first[d]->name(), documents_[d].runs, shared[d], second[documents_[d].most_like]->name()});
    }
    std::stable_sort(overlap.documents.begin(), overlap.documents.end(),
                     [](const DocumentOverlap& a, const DocumentOverlap& b) { return a.share() > b.share(); });
    return overlap;
  }

 private:
  struct Entry {
    uint64_t run;
    size_t document;
    auto operator<=>(const Entry&) const = default;
  };
  struct Match {
    int64_t runs = 0, most = 0;
    size_t most_like = 0;
  };

  // The first entry of a run, or the number of entries.
  size_t find(uint64_t run) const {
    const auto found = std::lower_bound(entries_.begin(), entries_.end(), Entry{run, 0});
    return found != entries_.end() && found->run == run ? static_cast<size_t>(found - entries_.begin())
                                                        : entries_.size();
  }

  int64_t length_;
  std::vector<Entry> entries_;  // in order
  std::vector<bool> shared_;    // by entry
  std::vector<Match> documents_;
  std::mutex mutex_;
};

}  // namespace

Overlap find_overlap(const DocumentList& first, const DocumentList& second, int64_t length) {
  RunIndex index(first, length);
  parallel_for(static_cast<int64_t>(second.size()),
               [&](int64_t i) { index.mark(*second[static_cast<size_t>(i)], static_cast<size_t>(i)); });
  return index.overlap(first, second);
}

double ngram_overlap(const DocumentList& held_out, const DocumentList& train, int64_t length) {
  int64_t bytes = 0;
  for (const Document* document : held_out) bytes += document->bytes();
  const uint64_t one_of = one_of_runs(bytes);
  const RunSet ours(distinct_runs(held_out, length, one_of));
  if (ours.size() == 0) return 0;
  std::vector<std::atomic<bool>> shared(ours.size());
  parallel_for(static_cast<int64_t>(train.size()), [&](int64_t i) {
    for_each_run(*train[static_cast<size_t>(i)], length, [&](uint64_t run) {
      if (const size_t at = ours.find(run); at < ours.size()) shared[at].store(true, std::memory_order_relaxed);
    });
  });
  return static_cast<double>(std::count(shared.begin(), shared.end(), true)) / static_cast<double>(ours.size());
}

DocumentList pointers_to(const std::vector<Document>& documents) {
  DocumentList list;
  append(list, documents);
  return list;
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
