#include "comm/text.h"

#include <algorithm>

namespace comm {

std::vector<std::string> all_gather_text(Group& group, const std::string& text) {
  const size_t ranks = static_cast<size_t>(group.size());
  int64_t length = static_cast<int64_t>(text.size());
  std::vector<int64_t> lengths(ranks);
  group.all_gather(Tensor(lengths.data(), DType::i64, {group.size()}), ConstTensor(&length, DType::i64, {1})).wait();
  const int64_t longest = *std::max_element(lengths.begin(), lengths.end());
  std::vector<std::string> texts(ranks);
  if (longest == 0) return texts;
  std::string padded = text, all(ranks * static_cast<size_t>(longest), '\0');
  padded.resize(static_cast<size_t>(longest));
  group
      .all_gather(Tensor(all.data(), DType::u8, {static_cast<int64_t>(all.size())}),
                  ConstTensor(padded.data(), DType::u8, {longest}))
      .wait();
  for (size_t r = 0; r < ranks; ++r)
    texts[r] = all.substr(r * static_cast<size_t>(longest), static_cast<size_t>(lengths[r]));
  return texts;
}

}  // namespace comm
