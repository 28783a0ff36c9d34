#include "engine/data/unlike_source.h"

#include <algorithm>
#include <cmath>

#include "engine/core/thread_pool.h"
#include "engine/data/ngram.h"

namespace engine::data {
namespace {

constexpr int64_t kShortest = 256;
constexpr size_t kFewest = 8;

std::vector<uint16_t> tokens_of(const Document& document) {
  std::vector<uint16_t> tokens;
  for (char c : document.beginning(kUnlikeBytes)) tokens.push_back(static_cast<unsigned char>(c));
  return tokens;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

}  // namespace

std::vector<UnlikeDocument> find_unlike(const std::vector<const Document*>& documents) {
  std::vector<size_t> measured;
  for (size_t d = 0; d < documents.size(); ++d) {
    if (documents[d]->bytes() >= kShortest) measured.push_back(d);
  }
  if (measured.size() < kFewest) return {};
  std::vector<double> bits(measured.size());
  parallel_for(2, [&](int64_t half) {
    NgramModel model(3, 256);
    const size_t first = static_cast<size_t>(half);
    for (size_t i = 1 - first; i < measured.size(); i += 2) model.train(tokens_of(*documents[measured[i]]));
    for (size_t i = first; i < measured.size(); i += 2)
      bits[i] = model.bits_per_token(tokens_of(*documents[measured[i]]));
  });
  const double middle = median(bits);
  std::vector<double> distances;
  for (double b : bits) distances.push_back(std::abs(b - middle));
  const double limit = std::max(kUnlikeBits, kUnlikeDeviations * 1.4826 * median(distances));
  std::vector<UnlikeDocument> found;
  for (size_t i = 0; i < measured.size(); ++i) {
    if (distances[i] > limit) found.push_back({measured[i], bits[i], middle});
  }
  return found;
}

}  // namespace engine::data
