// Documents that short contexts of their own source predict far better or worse than its other documents.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/data/documents.h"

namespace engine::data {

// A document's bits per byte under a 3-gram model of other documents of its source are so many robust standard
// deviations (1.4826 x median absolute deviation) and at least so many bits from the source's median.
inline constexpr double kUnlikeDeviations = 6, kUnlikeBits = 0.75;
inline constexpr int64_t kUnlikeBytes = int64_t{16} << 20;  // of a document are looked at

struct UnlikeDocument {
  size_t document;  // in the list
  double bits, median;
};

// Of documents of at least 256 bytes, where there are eight of them: each half under a model of the other half.
std::vector<UnlikeDocument> find_unlike(const std::vector<const Document*>& documents);

}  // namespace engine::data
