// The tokens of a set: in memory, or read from files as they are needed.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/data/spill_file.h"

namespace engine::data {

class TokenList {
 public:
  TokenList() = default;
  TokenList(std::vector<uint16_t> tokens) : memory_(std::move(tokens)), size_(memory_.size()) {}

  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  // Takes nothing from the heap.
  void read(int64_t first, int64_t count, uint16_t* to) const;
  std::vector<uint16_t> slice(int64_t first, int64_t count) const;

  void push_back(uint16_t token);  // only in memory
  // The bytes of a file as tokens, after the end of a document where that is asked for.
  void append_text(std::shared_ptr<SpillFile> file, int64_t begin, int64_t bytes, bool ends_document_before);
  // Tokens as they lie in a file from `begin` on.
  static TokenList in_file(std::shared_ptr<const SpillFile> file, int64_t begin, int64_t count);

  bool operator==(const TokenList& other) const;
  bool operator==(const std::vector<uint16_t>& other) const { return *this == TokenList(other); }

 private:
  struct Text {
    int64_t first, begin, bytes;  // first token, and where its bytes are
  };
  std::vector<uint16_t> memory_;
  std::vector<Text> texts_;
  std::shared_ptr<const SpillFile> file_;
  int64_t tokens_begin_ = -1;  // in file_, of whole tokens
  size_t size_ = 0;
};

}  // namespace engine::data
