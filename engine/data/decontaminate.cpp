#include "engine/data/decontaminate.h"

#include <algorithm>
#include <utility>

#include "engine/core/error.h"
#include "engine/core/stop_request.h"
#include "engine/core/thread_pool.h"
#include "engine/data/overlap.h"
#include "engine/data/word_runs.h"

namespace engine::data {
namespace {

// Of the runs of a document.
double share_in(const RunSet& evaluated, const Document& document, int64_t ngram) {
  const std::vector<uint64_t> runs = distinct_runs({&document}, ngram, one_of_runs(document.bytes()));
  const int64_t shared =
      std::count_if(runs.begin(), runs.end(), [&](uint64_t run) { return evaluated.find(run) < evaluated.size(); });
  return runs.empty() ? 0 : static_cast<double>(shared) / static_cast<double>(runs.size());
}

[[noreturn]] void refuse(const SourceDocuments& source, const HeldOutConfig& config) {
  throw Error(ExitCode::data, str("source \"", source.name, "\" has no training document left: in each, more than ",
                                  *config.max_overlap * 100, " % of the runs of ", config.ngram, " words also stand ",
                                  "in held-out or out-of-distribution text; raise data.held_out.max_overlap, or give ",
                                  "other texts (switchyard data overlap shows what they share)"));
}

}  // namespace

void decontaminate(DocumentSets& sets, const HeldOutConfig& config) {
  DocumentList documents;
  for (const char* set : {"held_out", "ood"}) select_documents(sets, set, documents);
  const RunSet evaluated(distinct_runs(documents, config.ngram));
  for (size_t s = 0; s < sets.splits.size(); ++s) {
    throw_if_stop_requested();
    std::vector<Document>& train = sets.splits[s].train;
    std::vector<double> shares(train.size());
    parallel_for(static_cast<int64_t>(train.size()), [&](int64_t i) {
      shares[static_cast<size_t>(i)] = share_in(evaluated, train[static_cast<size_t>(i)], config.ngram);
    });
    std::vector<Document> kept;
    for (size_t d = 0; d < train.size(); ++d) {
      if (shares[d] > *config.max_overlap) {
        sets.sources[s].leave_out(train[d].name(), kContaminated);
      } else {
        kept.push_back(std::move(train[d]));
      }
    }
    if (kept.empty() && !train.empty()) refuse(sets.sources[s], config);
    train = std::move(kept);
  }
}

}  // namespace engine::data
