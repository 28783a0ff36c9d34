#include "engine/checkpoint/weights_hash.h"

#include <algorithm>
#include <charconv>
#include <cstring>

#include "engine/core/error.h"
#include "engine/core/transfer.h"

namespace engine::checkpoint {

Hash128 hash_blocks(const std::string& key, const float* data, int64_t begin, int64_t count) {
  ENSURE(begin % nn::kParameterBlock == 0, "element ", begin, " of ", key, " does not begin a block");
  const uint64_t name_key = xxh3_64(key.data(), static_cast<int64_t>(key.size()));
  Hash128 total;
  for (int64_t at = 0; at < count; at += nn::kParameterBlock) {
    const uint64_t block = static_cast<uint64_t>((begin + at) / nn::kParameterBlock);
    total +=
        xxh3_128(data + at, std::min(nn::kParameterBlock, count - at) * 4, name_key ^ (block * 0x9E3779B97F4A7C15ull));
  }
  return total;
}

Hash128 hash_weight(const nn::Parameter& parameter) {
  return hash_blocks(parameter.spec.name, HostCopy(parameter.weight).f32(), 0, parameter.elements);
}

std::string hex(const Hash128& hash) {
  return to_hex(reinterpret_cast<const uint8_t*>(&hash), sizeof(hash));
}

Hash128 hash_of_hex(const std::string& text) {
  uint8_t bytes[sizeof(Hash128)];
  ENSURE(text.size() == 2 * sizeof(bytes), text, " is no hash of a tensor");
  for (size_t i = 0; i < sizeof(bytes); ++i) std::from_chars(&text[2 * i], &text[2 * i] + 2, bytes[i], 16);
  Hash128 hash;
  std::memcpy(&hash, bytes, sizeof(hash));
  return hash;
}

Hash128 hash_weights(const nn::ParameterStore& store, comm::Group& ep) {
  Hash128 total;
  for (const nn::Parameter& parameter : store.all()) {
    if (parameter.spec.is_expert || ep.rank() == 0) total += hash_weight(parameter);
  }
  int64_t halves[2];
  std::memcpy(halves, &total, sizeof(total));  // integer sums wrap: addition mod 2^64
  ep.all_reduce_sum(Tensor(halves, DType::i64, {2})).wait();
  std::memcpy(&total, halves, sizeof(total));
  return total;
}

}  // namespace engine::checkpoint
