// How much of one set of documents stands in another: shared runs of 13 words.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/data/corpus.h"

namespace engine::data {

using DocumentList = std::vector<const Document*>;

struct DocumentOverlap {
  std::string document;   // of the first set
  int64_t runs = 0;       // distinct runs of 13 words in it
  int64_t shared = 0;     // of them also in the second set
  std::string most_like;  // the document of the second set that holds the most of them
  double share() const { return static_cast<double>(shared) / static_cast<double>(runs); }
};

struct Overlap {
  int64_t runs = 0, shared = 0;            // distinct runs of the first set, and those also in the second
  std::vector<DocumentOverlap> documents;  // those that share any, the largest share first
  double share() const { return runs == 0 ? 0 : static_cast<double>(shared) / static_cast<double>(runs); }
};

Overlap find_overlap(const DocumentList& first, const DocumentList& second);

// "train", "held_out" and "ood": of all sources; "train:NAME" and so on: of one. False if there is no such set.
bool select_documents(const DocumentSets& sets, const std::string& name, DocumentList& documents);
// Every name that select_documents() knows for these sets.
std::vector<std::string> set_names(const DocumentSets& sets);

}  // namespace engine::data
