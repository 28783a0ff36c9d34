// One hash of all weights that does not depend on who holds them.
#pragma once

#include <cstdint>
#include <string>

#include "comm/group.h"
#include "engine/core/hash.h"
#include "engine/nn/parameters.h"

namespace engine::checkpoint {

// XXH3-128 of `count` elements of a tensor from `begin` on: each block of 4,096 elements hashed under a key of (key,
// number of the block), the hashes added mod 2^64, so the sum may be taken over any parts cut at block boundaries.
// The key is the name of a weight, "exp_avg.NAME" or "exp_avg_sq.NAME".
Hash128 hash_blocks(const std::string& key, const float* data, int64_t begin, int64_t count);
Hash128 hash_weight(const nn::Parameter& parameter);
std::string hex(const Hash128& hash);
Hash128 hash_of_hex(const std::string& text);

// Over the whole model: dense weights once, the experts of every rank of ep. Collective, the same on every rank.
Hash128 hash_weights(const nn::ParameterStore& store, comm::Group& ep);

}  // namespace engine::checkpoint
