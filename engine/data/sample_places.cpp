#include "engine/data/sample_places.h"

#include <algorithm>

#include "engine/core/error.h"

namespace engine::data {

std::vector<SamplePiece> find_pieces(const TokenSet& set, int64_t first, int64_t count) {
  const int64_t last = first + count;
  ENSURE(first >= 0 && last <= static_cast<int64_t>(set.tokens.size()), "tokens ", first, " to ", last, " of ",
         set.tokens.size());
  std::vector<SamplePiece> pieces;
  auto place = std::upper_bound(set.places.begin(), set.places.end(), first,
                                [](int64_t token, const DocumentPlace& p) { return token < p.first_token; });
  for (--place; place != set.places.end() && place->first_token < last; ++place) {
    const int64_t end_of_text = place->first_token + place->num_tokens;
    const int64_t from = std::min(std::max(first, place->first_token), end_of_text), to = std::min(last, end_of_text);
    const bool has_end = last > end_of_text && first <= end_of_text &&
                         end_of_text < static_cast<int64_t>(set.tokens.size()) &&
                         (std::next(place) == set.places.end() || std::next(place)->first_token > end_of_text);
    if (from == to && !has_end) continue;
    pieces.push_back({.file = set.files[place->file],
                      .line = place->line,
                      .begin = place->text_begin + from - place->first_token,
                      .end = place->text_begin + to - place->first_token,
                      .ends_document = has_end});
  }
  return pieces;
}

}  // namespace engine::data
