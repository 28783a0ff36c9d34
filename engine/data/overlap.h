// How much of one set of documents stands in another: shared runs of words, 13 of them unless data.held_out.ngram says
// otherwise.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/data/corpus.h"

namespace engine::data {

using DocumentList = std::vector<const Document*>;

struct DocumentOverlap {
  std::string document;   // of the first set
  int64_t runs = 0;       // distinct runs in it
  int64_t shared = 0;     // of them also in the second set
  std::string most_like;  // the document of the second set that holds the most of them
  double share() const { return static_cast<double>(shared) / static_cast<double>(runs); }
};

struct Overlap {
  int64_t runs = 0, shared = 0;            // distinct runs of the first set, and those also in the second
  std::vector<DocumentOverlap> documents;  // those that share any, the largest share first
  double share() const { return runs == 0 ? 0 : static_cast<double>(shared) / static_cast<double>(runs); }
};

// Memory is needed for the runs of the first set only.
Overlap find_overlap(const DocumentList& first, const DocumentList& second, int64_t length);

// Share of the distinct runs of `held_out` that also stand in `train`; 0 if there are none. Of more than some millions
// of runs a part is looked at that is drawn by their hashes.
double ngram_overlap(const DocumentList& held_out, const DocumentList& train, int64_t length);

DocumentList pointers_to(const std::vector<Document>& documents);

// "train", "held_out" and "ood": of all sources; "train:NAME" and so on: of one. False if there is no such set.
bool select_documents(const DocumentSets& sets, const std::string& name, DocumentList& documents);
// Every name that select_documents() knows for these sets.
std::vector<std::string> set_names(const DocumentSets& sets);

}  // namespace engine::data
