#include "engine/checkpoint/weights_hash.h"

#include <algorithm>
#include <cstring>

namespace engine::checkpoint {

Hash128 hash_weight(const nn::Parameter& parameter) {
  const uint64_t name_key = xxh3_64(parameter.spec.name.data(), static_cast<int64_t>(parameter.spec.name.size()));
  Hash128 total;
  for (int64_t begin = 0; begin < parameter.elements; begin += nn::kParameterBlock) {
    const int64_t count = std::min(nn::kParameterBlock, parameter.elements - begin);
    const uint64_t block = static_cast<uint64_t>(begin / nn::kParameterBlock);
    total += xxh3_128(parameter.weight.f32() + begin, count * 4, name_key ^ (block * 0x9E3779B97F4A7C15ull));
  }
  return total;
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
