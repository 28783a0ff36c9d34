#include "engine/data/token_list.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "engine/core/error.h"
#include "engine/data/tokenizer.h"

namespace engine::data {
namespace {

constexpr int64_t kBlock = 4096;

void read_bytes_as_tokens(const SpillFile& file, int64_t begin, int64_t count, uint16_t* to) {
  unsigned char bytes[kBlock];
  for (int64_t done = 0; done < count; done += kBlock) {
    const int64_t piece = std::min(kBlock, count - done);
    file.read(begin + done, piece, bytes);
    for (int64_t i = 0; i < piece; ++i) to[done + i] = bytes[i];
  }
}

}  // namespace

void TokenList::push_back(uint16_t token) {
  ENSURE(file_ == nullptr, "a token cannot be added to a list in a file");
  memory_.push_back(token);
  ++size_;
}

void TokenList::append_text(std::shared_ptr<SpillFile> file, int64_t begin, int64_t bytes, bool ends_document_before) {
  ENSURE(memory_.empty() && (file_ == nullptr || file_ == file), "all texts of a list are in one file");
  file_ = std::move(file);
  size_ += ends_document_before ? 1 : 0;
  texts_.push_back({static_cast<int64_t>(size_), begin, bytes});
  size_ += static_cast<size_t>(bytes);
}

TokenList TokenList::in_file(std::shared_ptr<const SpillFile> file, int64_t begin, int64_t count) {
  TokenList list;
  list.file_ = std::move(file);
  list.tokens_begin_ = begin;
  list.size_ = static_cast<size_t>(count);
  return list;
}

void TokenList::read(int64_t first, int64_t count, uint16_t* to) const {
  ENSURE(first >= 0 && count >= 0 && first + count <= static_cast<int64_t>(size_), "tokens ", first, " to ",
         first + count, " of ", size_);
  if (count == 0) return;
  if (file_ == nullptr) {
    std::memcpy(to, memory_.data() + first, static_cast<size_t>(count) * sizeof(uint16_t));
    return;
  }
  if (tokens_begin_ >= 0) {
    constexpr int64_t kSize = sizeof(uint16_t);
    file_->read(tokens_begin_ + first * kSize, count * kSize, to);
    return;
  }
  // the last text that begins at or before `first`; tokens behind a text and before the next end a document
  auto text = std::upper_bound(texts_.begin(), texts_.end(), first,
                               [](int64_t token, const Text& t) { return token < t.first; });
  ENSURE(text != texts_.begin(), "a list that begins with the end of a document");
  --text;
  for (int64_t at = first, end = first + count; at < end;) {
    const int64_t inside = std::min(end, text->first + text->bytes) - at;
    if (inside > 0) {
      read_bytes_as_tokens(*file_, text->begin + at - text->first, inside, to + (at - first));
      at += inside;
      continue;
    }
    ++text;
    for (; at < end && (text == texts_.end() || at < text->first); ++at)
      to[at - first] = static_cast<uint16_t>(kEndOfDocument);
  }
}

std::vector<uint16_t> TokenList::slice(int64_t first, int64_t count) const {
  std::vector<uint16_t> tokens(static_cast<size_t>(count));
  read(first, count, tokens.data());
  return tokens;
}

bool TokenList::operator==(const TokenList& other) const {
  if (size_ != other.size_) return false;
  const int64_t size = static_cast<int64_t>(size_);
  for (int64_t at = 0; at < size; at += kBlock) {
    const int64_t piece = std::min(kBlock, size - at);
    if (slice(at, piece) != other.slice(at, piece)) return false;
  }
  return true;
}

}  // namespace engine::data
