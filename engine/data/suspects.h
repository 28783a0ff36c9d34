// Suspects: documents worth a look before training on them. Nothing is left out because of it; data.filters does that.
#pragma once

#include <string>
#include <vector>

#include "engine/data/corpus.h"

namespace engine::data {

struct Suspect {
  std::string source, document;
  std::string kind;    // "binary", "control characters", "repeated line", "line in many documents", "compression",
                       // "unlike its source", "near-duplicate of training"
  std::string detail;  // with the values
  std::vector<std::string> places;  // "line in many documents": all of them
};

// When a document is suspect:
inline constexpr double kSuspectLineShare = 0.5;            // one line is so much of it
inline constexpr double kSuspectCompression[] = {1.4, 15};  // zlib's ratio is outside, with at least kSuspectBytes
inline constexpr int64_t kSuspectBytes = 2048;
inline constexpr double kSuspectOverlap = 0.5;  // so many of its runs of words stand in training
// A line of at least so many bytes stands in at least this share of a source's documents (and three), and what is
// above and below it is another text each time: not part of a repeated block such as a licence. So many pairs of words
// in it stand nowhere else.
inline constexpr double kSuspectLineDocuments = 0.005;
inline constexpr int64_t kSuspectLineBytes = 16, kSuspectLinePairs = 2;

// Wants every text in memory. `ngram` is the number of words in a run.
std::vector<Suspect> find_suspects(const DocumentSets& sets, int64_t ngram);

}  // namespace engine::data
