// The byte tokenizer: ids 0 to 255 are bytes, 256 ends a document.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace engine::data {

inline constexpr int32_t kEndOfDocument = 256;
inline constexpr int64_t kByteVocabulary = 257;

inline std::vector<int32_t> encode(std::string_view text) {
  std::vector<int32_t> tokens;
  tokens.reserve(text.size());
  for (char c : text) tokens.push_back(static_cast<unsigned char>(c));
  return tokens;
}

// Ids above 255 (the end of a document, or a larger vocabulary) give nothing.
inline std::string decode(const std::vector<int32_t>& tokens) {
  std::string text;
  for (int32_t token : tokens) {
    if (token >= 0 && token < 256) text += static_cast<char>(token);
  }
  return text;
}

}  // namespace engine::data
