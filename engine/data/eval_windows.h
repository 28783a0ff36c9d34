// Windows of an evaluation: non-overlapping, in order, every token but the first predicted exactly once.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "engine/data/corpus.h"

namespace engine::data {

class EvalWindows {
 public:
  // Of max_tokens (0: all) the windows are taken evenly from the whole set.
  EvalWindows(const TokenSet& set, int64_t seq_len, int64_t max_tokens = 0) : set_(&set), seq_len_(seq_len) {
    const int64_t predicted = std::max<int64_t>(0, static_cast<int64_t>(set.tokens.size()) - 1);
    total_ = (predicted + seq_len - 1) / seq_len;
    count_ = max_tokens > 0 ? std::min(total_, std::max<int64_t>(1, max_tokens / seq_len)) : total_;
  }
  int64_t count() const { return count_; }

  // inputs[seq_len] and targets[seq_len] of window i; beyond the end of the set inputs are 0 and targets -1.
  // Returns the number of tokens predicted.
  int64_t read(int64_t i, int32_t* inputs, int32_t* targets) const {
    const int64_t window = count_ == total_ ? i : i * total_ / count_;
    const int64_t begin = window * seq_len_, size = static_cast<int64_t>(set_->tokens.size());
    const int64_t predicted = std::clamp<int64_t>(size - 1 - begin, 0, seq_len_);
    uint16_t piece[1024];
    for (int64_t at = 0; at <= predicted && predicted > 0; at += 1024) {
      const int64_t count = std::min<int64_t>(1024, predicted + 1 - at);
      set_->tokens.read(begin + at, count, piece);
      for (int64_t s = at; s < at + count; ++s) {
        if (s < seq_len_) inputs[s] = piece[s - at];
        if (s > 0) targets[s - 1] = piece[s - at];
      }
    }
    for (int64_t s = predicted; s < seq_len_; ++s) inputs[s] = 0, targets[s] = -1;
    return predicted;
  }

 private:
  const TokenSet* set_;
  int64_t seq_len_, total_, count_;
};

}  // namespace engine::data
